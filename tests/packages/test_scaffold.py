"""First recipes: each can be read as it is written, and those from files can be built."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.cli.main import run
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import BuildError, StoreError, UsageError
from reconciler.inventory.desired import Position
from reconciler.packages import pypi
from reconciler.packages.recipe import load
from reconciler.packages.resolver import Resolver
from reconciler.packages.scaffold import brought_along, scaffold
from reconciler.packages.specs import PathSpec, PypiSpec, UrlSpec
from tests.core.build.elf_files import elf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "packages"
    made.mkdir()
    return made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventories/main").mkdir(parents=True)
    (tmp_path / "inventories/main/hosts.yml").write_text("all: {hosts: {a: {ansible_connection: local}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECONCILER_STORE", str(tmp_path / "store"))
    return tmp_path


def test_a_url_is_pinned_and_tells_version_and_kind(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "hello-2.10.tar.gz"
    with tarfile.open(archive, "w:gz"):
        pass
    (folder / "hello.yml").write_text(scaffold("hello", archive.as_uri(), folder).recipe)
    recipe = load(folder / "hello.yml", "hello.yml")
    (source,) = recipe.versions["2.10"].sources
    assert isinstance(source, UrlSpec)
    assert source.urls == (archive.as_uri(),)
    assert source.sha256.base16 == hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("backup.sh", "#!/bin/sh\n", "script"),
        ("tool", "\x7fELF", "files"),
        ("lib-3.1.tar.xz", "", "autotools"),
    ],
)
def test_a_file_tells_its_kind(folder: Path, file: str, text: str, kind: str) -> None:
    (folder / file).write_text(text)
    (folder / "new.yml").write_text(scaffold("new", str(folder / file), folder).recipe)
    assert f"\nkind: {kind}\n" in (folder / "new.yml").read_text()
    assert ("\n# patches: [" in (folder / "new.yml").read_text()) == (kind == "autotools")
    (variant,) = load(folder / "new.yml", "new.yml").versions.values()
    assert isinstance(variant.sources[0], PathSpec)


TREES: dict[tuple[str, ...], tuple[str, str]] = {
    # what lies in it: the toolchain, and how it is built
    ("configure", "configure.ac"): ("debian-12", "\nkind: autotools\n"),
    ("Makefile",): ("debian-12", "\nkind: autotools\n"),
    ("configure.ac", "src/configure"): (
        "debian-12-autotools",
        "\nbuild: |\n  autoreconf -fi\n  ./configure --prefix=$out\n",
    ),
    ("configure.in",): ("debian-12-autotools", "\nbuild: |\n  autoreconf -fi\n  ./configure --prefix=$out\n"),
}


@pytest.mark.parametrize("files", TREES)
@pytest.mark.parametrize("prefix", ["", "./"])
def test_what_has_no_configure_is_given_the_toolchain_that_makes_one(
    folder: Path, files: tuple[str, ...], prefix: str
) -> None:
    toolchain, how = TREES[files]
    with tarfile.open(folder / "lib-3.1.tar.gz", "w:gz") as archive:
        for file in files:
            archive.addfile(tarfile.TarInfo(f"{prefix}lib-3.1/{file}"))
    for source in ("lib-3.1.tar.gz", (folder / "lib-3.1.tar.gz").as_uri()):
        made = scaffold("lib", source, folder).recipe
        assert f"\ntoolchain: {toolchain}\n" in made
        assert how in made
        (folder / "lib.yml").write_text(made)
        assert load(folder / "lib.yml", "lib.yml").versions["3.1"].toolchain == toolchain
    if "Makefile" not in files:
        (folder / "tree/src").mkdir(parents=True)
        for file in files:
            (folder / "tree" / file).write_text("")
        assert f"\ntoolchain: {toolchain}\n" in scaffold("lib", "tree", folder).recipe


HOST_ONLY = {
    "lib-3.1.zip": (b"", "host             # a pinned one has no unzip, unless you extend it"),
    "tool-3.1": (elf(interpreter="/lib/ld.so"), "host             # it is linked to the C library of a distribution"),
    "tool-v3.1": (elf(), "debian-12"),
}


@pytest.mark.parametrize("file", HOST_ONLY)
def test_what_a_pinned_toolchain_is_no_use_for_is_for_the_host(folder: Path, file: str) -> None:
    content, toolchain = HOST_ONLY[file]
    (folder / file).write_bytes(content)
    for source in (file, (folder / file).as_uri()):
        made = scaffold("it", source, folder).recipe
        (folder / "it.yml").write_text(made)
        assert f"\ntoolchain: {toolchain}\n" in made
        assert load(folder / "it.yml", "it.yml").versions["3.1"].toolchain == toolchain.partition(" ")[0]


def test_recipes_that_are_brought_along_are_those_of_the_example_and_come_with_their_inputs(folder: Path) -> None:
    shown = Path(__file__).parents[2] / "inventories/gnu/packages"
    assert list(brought_along()) == ["libffi", "python3", "zlib"]
    for file in brought_along().values():
        assert file.read_text() == (shown / file.name).read_text()
        load(file, file.name)
    made = scaffold("python3", None, folder)
    assert made.recipe == (shown / "python3.yml").read_text()
    assert sorted(name for name, _ in made.beside) == ["libffi.yml", "zlib.yml"]
    assert scaffold("zlib", None, folder).beside == ()


def test_a_file_tells_its_version_and_may_be_named_as_it_is_called_in_the_folder(folder: Path) -> None:
    for name in ("lib-3.1.tar.xz", "lib_3.1.orig.tar.gz"):
        (folder / name).write_text("")
        assert scaffold("lib", name, folder).recipe.startswith("version: 3.1\n")


METADATA = """\
Metadata-Version: 2.1
Name: app
Version: 2.5
Summary: says: what is "needed"
Requires-Dist: Click (>=8)
Requires-Dist: ruamel.yaml[jinja2]>=0.18
Requires-Dist: tomli; python_version < "3.11"
Requires-Dist: pytest; extra == "dev"
"""


def made_wheel(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "app-2.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, "app-2.5.dist-info/METADATA": METADATA}.items():
            archive.writestr(member, text)
    return path


def test_a_wheel_tells_what_it_is_and_what_it_needs(folder: Path) -> None:
    path = made_wheel(folder, {"app/__init__.py": "", "app-2.5.data/scripts/app": "#!python"})
    made = scaffold("app", str(path), folder)
    (folder / "app.yml").write_text(made.recipe)
    recipe = load(folder / "app.yml", "app.yml")
    variant = recipe.versions["2.5"]
    assert recipe.description == 'says: what is "needed"'
    assert [each.reference for each in variant.inputs] == ["python3", "click", "ruamel-yaml"]
    assert made.needs == (("python3", ""), ("click", "pypi:click"), ("ruamel-yaml", "pypi:ruamel-yaml"))
    assert "\ntoolchain: debian-12\nkind: python-app\n" in made.recipe
    assert made.recipe.endswith("# By its conditions perhaps also: tomli\n")


def test_a_wheel_without_any_python_is_the_programs_that_it_brings(folder: Path) -> None:
    path = made_wheel(folder, {"app-2.5.data/scripts/app": "\x7fELF"})
    # From a server it is read as well.
    for source in (str(path), path.as_uri()):
        made = scaffold("app", source, folder)
        (folder / "app.yml").write_text(made.recipe)
        assert "\nkind: files\n" in made.recipe
        variant = load(folder / "app.yml", "app.yml").versions["2.5"]
        assert "cp -R app-2.5.data/scripts/app" in variant.build
        assert [each.reference for each in variant.inputs] == ["python3"], "it unpacks the wheel"
        assert made.needs == (("python3", ""),)


def test_wheels_are_chosen_for_the_c_library_that_they_will_run_with(project: Path) -> None:
    toolchains = Resolver(project, project / "inventories/main").toolchains
    for system in ("x86_64-linux", "aarch64-linux"):
        found = toolchains.find("debian-12", system, Position("recipe.yml", 1, 1))
        (libc,) = (deb for deb in found.libc.debs if deb.package == "libc6")
        assert libc.version.startswith(f"2.{pypi.GLIBC}-")


def test_names_that_yaml_would_read_otherwise_are_quoted(folder: Path) -> None:
    files = {f"app-2.5.data/scripts/{name}": "\x7fELF" for name in ("a,b", "c")}
    path = made_wheel(folder, files).rename(folder / "an {odd}, name.whl")
    (folder / "app.yml").write_text(scaffold("app", str(path), folder).recipe)
    variant = load(folder / "app.yml", "app.yml").versions["2.5"]
    assert [source.path.name for source in variant.sources if isinstance(source, PathSpec)] == [path.name]
    assert variant.build.count("cp -R ") == 2


def test_what_a_wheel_says_in_other_alphabets_is_kept(folder: Path) -> None:
    path = folder / "app.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("app-2.5.dist-info/METADATA", "Version: 2.5\nSummary: café ☕\n")
    (folder / "app.yml").write_text(scaffold("app", str(path), folder).recipe, encoding="utf-8")
    assert load(folder / "app.yml", "app.yml").description == "café ☕"


def encrypted(data: bytearray) -> None:
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1


def compressed_otherwise(data: bytearray) -> None:
    for mark, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        data[data.index(mark) + offset] = 99


def broken(data: bytearray) -> None:
    data[data.index(b"METADATA") + len("METADATA")] ^= 0xFF


@pytest.mark.parametrize("change", [encrypted, compressed_otherwise, broken])
def test_a_wheel_that_cannot_be_read_is_told(folder: Path, change: Callable[[bytearray], None]) -> None:
    path = folder / "app.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app-2.5.dist-info/METADATA", "Version: 2.5\n" * 9)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"app.whl' is no wheel"):
        scaffold("app", str(path), folder)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("Version: 1!2.5\n", "the wheel's version '1!2.5' cannot be a package's"),
        ("Version: 1\n" + "x" * (4 * 1024 * 1024), "its METADATA has more than 4194304 bytes"),
    ],
)
def test_a_wheel_that_no_recipe_can_be_of_is_refused(folder: Path, metadata: str, message: str) -> None:
    path = folder / "app.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app-2.5.dist-info/METADATA", metadata)
    with pytest.raises(UsageError) as caught:
        scaffold("app", str(path), folder)
    assert message in caught.value.message


@pytest.mark.network
def test_a_project_of_the_index_is_pinned(folder: Path) -> None:
    # One for every Python and one for a machine; what it needs of a Python is no matter to the controller's pip.
    made = scaffold("shfmt", "pypi:shfmt-py@4.2.0", folder)
    (folder / "shfmt.yml").write_text(made.recipe)
    (source,) = load(folder / "shfmt.yml", "shfmt.yml").versions["4.2.0"].sources
    assert isinstance(source, PypiSpec)
    assert (source.project, source.version) == ("shfmt-py", "4.2.0")
    assert pypi.fetch(source).name.endswith(source.file)
    # What is compiled is for the Python that the package will run with, whatever this one is.
    assert "-cp311-cp311-manylinux" in scaffold("pyyaml", "pypi:pyyaml@6.0.2", folder).recipe
    (folder / "python3.yml").write_text("versions: {3.9.2: {}, 3.12.1: {}}\ntoolchain: host\n")
    assert "-cp312-cp312-manylinux" in scaffold("pyyaml", "pypi:pyyaml@6.0.2", folder).recipe
    with pytest.raises(StoreError, match="pip cannot fetch shfmt-py==0"):
        scaffold("shfmt", "pypi:shfmt-py@0", folder)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("a/b", None, "'a/b' cannot name a package"),
        ("a-1", None, "'a-1' cannot name a package"),
        ("x", "gone", "there is no file or directory 'gone'"),
        ("x", "/etc/hosts", "'/etc/hosts' does not lie below"),
        ("x", "pypi:a/b", "'pypi:a/b' cannot name a project of the Python package index"),
        ("x", "wrong.whl", "wrong.whl' is no wheel"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, name: str, source: str | None, message: str) -> None:
    (folder / "wrong.whl").write_text("PK")
    with pytest.raises(UsageError, match=message):
        scaffold(name, source, folder)


def test_a_url_that_is_nowhere_is_told(folder: Path) -> None:
    with pytest.raises(BuildError, match="cannot be fetched"):
        scaffold("x", "file:///nowhere/x-1.0.tar", folder)


def test_what_a_wheel_needs_is_told_until_it_is_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "packages").mkdir()
    made_wheel(project / "packages", {"app/__init__.py": ""})
    assert run("reconciler", ["packages", "new", "app", "app-2.5-py3-none-any.whl"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "next     reconciler packages new python3",
        "next     reconciler packages new click pypi:click",
        "next     reconciler packages new ruamel-yaml pypi:ruamel-yaml",
        "next     reconciler build app",
    ]
    (project / "packages/zlib.yml").write_text("version: 9\ntoolchain: host\n")
    assert run("reconciler", ["packages", "new", "python3"]) == 0
    assert capsys.readouterr().out.splitlines() == ["packages/python3.yml", "packages/libffi.yml"]
    assert (project / "packages/zlib.yml").read_text().startswith("version: 9"), "it is somebody's own"
    (project / "packages/app.yml").unlink()
    assert run("reconciler", ["packages", "new", "app", "app-2.5-py3-none-any.whl"]) == 0
    assert "new python3" not in capsys.readouterr().err


@pytest.mark.network
@pytest.mark.skipif(host_system() != "x86_64-linux", reason="the toolchain that comes along is for x86_64-linux")
def test_a_sample_is_written_once_and_builds(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", ["packages", "new", "greeter"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["packages/greeter.yml", "packages/greeter.sh"]
    assert captured.err == "next     reconciler build greeter\n"
    assert run("reconciler", ["build", "greeter"]) == 0
    place = Path(capsys.readouterr().out.strip())
    assert (place / "bin/greeter").read_text().endswith('echo "greeter says hello"\n')
    assert run("reconciler", ["packages", "new", "greeter"]) == 2
    assert "packages/greeter.yml is there already" in capsys.readouterr().err
