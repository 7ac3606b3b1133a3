"""First recipes: each can be read as it is written, and those from files can be built."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path

import pytest

from reconciler.cli.main import run
from reconciler.core.errors import BuildError, StoreError, UsageError
from reconciler.packages import pypi
from reconciler.packages.recipe import load
from reconciler.packages.scaffold import scaffold
from reconciler.packages.specs import PathSpec, PypiSpec, UrlSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "packages"
    made.mkdir()
    return made


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
    assert [each.reference for each in variant.inputs] == ["click", "ruamel-yaml"] == list(made.needs)
    assert "\nkind: python-app\n" in made.recipe
    assert made.recipe.endswith("# By its conditions perhaps also: tomli\n")


def test_a_wheel_without_any_python_is_the_programs_that_it_brings(folder: Path) -> None:
    path = made_wheel(folder, {"app-2.5.data/scripts/app": "\x7fELF"})
    (folder / "app.yml").write_text(scaffold("app", str(path), folder).recipe)
    assert "\nkind: files\n" in (folder / "app.yml").read_text()
    assert "cp -R app-2.5.data/scripts/app" in load(folder / "app.yml", "app.yml").versions["2.5"].build


@pytest.mark.network
def test_a_project_of_the_index_is_pinned(folder: Path) -> None:
    # One for every Python and one for a machine; what it needs of a Python is no matter to the controller's pip.
    made = scaffold("shfmt", "pypi:shfmt-py@4.2.0", folder)
    (folder / "shfmt.yml").write_text(made.recipe)
    (source,) = load(folder / "shfmt.yml", "shfmt.yml").versions["4.2.0"].sources
    assert isinstance(source, PypiSpec)
    assert (source.project, source.version) == ("shfmt-py", "4.2.0")
    assert pypi.fetch(source).name.endswith(source.file)
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


def test_a_sample_is_written_once_and_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inventories/main").mkdir(parents=True)
    (tmp_path / "inventories/main/hosts.yml").write_text("all: {hosts: {a: {ansible_connection: local}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECONCILER_STORE", str(tmp_path / "store"))
    assert run("reconciler", ["packages", "new", "greeter"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["packages/greeter.yml", "packages/greeter.sh"]
    assert captured.err == "next     reconciler build greeter\n"
    assert run("reconciler", ["build", "greeter"]) == 0
    place = Path(capsys.readouterr().out.strip())
    assert (place / "bin/greeter").read_text().endswith('echo "greeter says hello"\n')
    assert run("reconciler", ["packages", "new", "greeter"]) == 2
    assert "packages/greeter.yml is there already" in capsys.readouterr().err
