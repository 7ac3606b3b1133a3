"""Kinds of recipes, several outputs and checks, by real builds."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from reconciler.core.build.realise import realise
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import BuildError, Faults
from reconciler.core.store.store import Store
from reconciler.packages.instantiate import instantiate
from reconciler.packages.model import Package
from reconciler.packages.recipe import load
from tests.oracle import RealNix
from tests.packages.project import Project


def build(project: Project, store: Store, name: str) -> Package:
    resolver = project.resolver()
    package = resolver.resolve(name, host_system())
    instantiate(resolver.graph([package]), store)
    assert package.derivation is not None
    realise(store, [package.derivation])
    return package


def write(project: Project, name: str, body: str) -> None:
    project.recipe(name, f"version: 1.0\ntoolchain: host\n{body}")


def show(store: Store, path: object, *names: str) -> str:
    """What a program of a package prints, run where the store is at /nix/store."""
    return run_in(store, f"{path}/{'/'.join(names)}")


def run_in(store: Store, command: str) -> str:
    inside = f"mkdir -p /nix/store && mount --rbind {store.store_dir} /nix/store && exec {command}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", inside], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_mounts = pytest.mark.root


@needs_mounts
def test_a_script_has_its_runtime_packages_first_on_its_path(project: Project, store: Store, nix: RealNix) -> None:
    project.file("count.sh", "#!/bin/sh\nletters abc\n")
    project.file("letters", '#!/bin/sh\nprintf %s "$1" | wc -c\n')
    write(project, "letters", "kind: script\nsource: {path: letters}\n")
    write(project, "count", "kind: script\nsource: {path: count.sh}\nruntime: [letters]\n")
    package = build(project, store, "count")
    assert show(store, package.output, "bin", "count").strip() == "3"
    assert {path.name for path in store.info(package.output).references} == {"count-1.0", "letters-1.0"}
    nix.verify()


def test_a_prebuilt_file_is_a_program_of_the_packages_name(project: Project, store: Store) -> None:
    project.file("tool-linux-amd64", "#!/bin/sh\necho prebuilt\n")
    write(project, "tool", "kind: files\nsource: {path: tool-linux-amd64}\n")
    real = Path(store.real(build(project, store, "tool").output))
    assert (real / "bin/tool").stat().st_mode & 0o111
    assert sorted(path.name for path in real.rglob("*")) == ["bin", "tool"]


def test_files_go_where_install_says(project: Project, store: Store) -> None:
    archive = project.file("x", "").with_name("site.tar")
    with tarfile.open(archive, "w") as tar:
        for name in ("site-1/run", "site-1/pages/index.html", "site-1/README"):
            member = tarfile.TarInfo(name)
            tar.addfile(member)
    write(project, "site", "kind: files\nsource: {path: site.tar}\ninstall: {bin/site: run, share/site: pages}\n")
    real = Path(store.real(build(project, store, "site").output))
    assert sorted(str(path.relative_to(real)) for path in real.rglob("*") if path.is_file()) == [
        "bin/site",
        "share/site/index.html",
    ]
    assert (real / "bin/site").stat().st_mode & 0o111


def test_without_install_an_archive_is_installed_as_it_is(project: Project, store: Store) -> None:
    (project.inventory / "packages/theme").mkdir(parents=True)
    project.file("theme/a.css", "body {}")
    write(project, "theme", "kind: files\nsource: {path: theme}\n")
    real = Path(store.real(build(project, store, "theme").output))
    assert [path.name for path in real.iterdir()] == ["a.css"]


def test_a_prebuilt_program_is_taken_out_of_a_wheel(project: Project, store: Store) -> None:
    name, _ = wheel(project.inventory / "packages", "tool", {"tool-1.0.data/scripts/tool": "prebuilt", "other.py": ""})
    write(
        project, "tool", f"kind: files\nsource: {{path: {name}}}\ninstall: {{bin/tool: tool-1.0.data/scripts/tool}}\n"
    )
    real = Path(store.real(build(project, store, "tool").output))
    assert [str(path.relative_to(real)) for path in real.rglob("*") if path.is_file()] == ["bin/tool"]
    assert (real / "bin/tool").stat().st_mode & 0o111
    write(project, "whole", f"kind: files\nsource: {{path: {name}}}\n")
    with pytest.raises(Faults) as error:
        load(project.inventory / "packages/whole.yml", "whole.yml")
    assert error.value.errors[0].message == "whole.yml:3:1: a wheel needs `install`"


def test_what_belongs_into_other_outputs_is_moved_there(project: Project, store: Store, nix: RealNix) -> None:
    write(
        project,
        "lib",
        """outputs: [out, bin, dev, man]
build: |
  mkdir -p $out/bin $out/include $out/lib/pkgconfig $out/share/man/man1
  touch $out/bin/lib-tool $out/include/lib.h $out/lib/lib.so $out/lib/lib.a $out/lib/pkgconfig/lib.pc
  touch $out/share/man/man1/lib.1
""",
    )
    package = build(project, store, "lib")
    found = {
        name: sorted(str(p.relative_to(store.real(path))) for p in Path(store.real(path)).rglob("*") if p.is_file())
        for name, path in package.outputs.items()
    }
    assert found == {
        "out": ["lib/lib.so"],
        "bin": ["bin/lib-tool"],
        "dev": ["include/lib.h", "lib/lib.a", "lib/pkgconfig/lib.pc"],
        "man": ["share/man/man1/lib.1"],
    }
    assert package.output == package.outputs["bin"]
    assert package.also == (package.outputs["man"],)
    nix.verify()


def test_a_build_sees_every_output_of_its_inputs(project: Project, store: Store) -> None:
    write(project, "lib", "outputs: [out, dev]\nbuild: mkdir -p $out/lib $dev/include; touch $dev/include/lib.h\n")
    write(project, "user", 'inputs: [lib]\nbuild: |\n  mkdir $out; echo "$CPPFLAGS" > $out/flags; ls $lib\n')
    lib, user = build(project, store, "lib"), build(project, store, "user")
    assert Path(store.real(user.output), "flags").read_text() == f"-I{lib.outputs['dev']}/include\n"


def test_a_check_runs_after_the_build_with_the_package_on_path(project: Project, store: Store) -> None:
    program = (
        'build: |\n  mkdir -p $out/bin; printf "#!/bin/sh\\necho 42\\n" > $out/bin/answer; chmod 755 $out/bin/answer\n'
    )
    write(project, "good", f"{program}check: |\n  test $(answer) = 42\n")
    write(project, "bad", f"{program}check: |\n  answer; test $(answer) = 41\n")
    build(project, store, "good")
    with pytest.raises(BuildError, match="42"):
        build(project, store, "bad")


# --- Python -----------------------------------------------------------------------------------------------------------


def wheel(directory: Path, name: str, files: dict[str, str]) -> tuple[str, str]:
    """A wheel; its file name and sha256."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-1.0-py3-none-any.whl"
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
            record += f"{member},sha256={digest},{len(text)}\n"
            archive.writestr(zipfile.ZipInfo(member), text)
        archive.writestr(zipfile.ZipInfo(f"{name}-1.0.dist-info/RECORD"), record)
    return path.name, hashlib.sha256(path.read_bytes()).hexdigest()


@needs_mounts
def test_a_python_app_finds_the_modules_of_its_inputs(project: Project, store: Store, nix: RealNix) -> None:
    packages = project.inventory / "packages"
    base, _ = wheel(packages, "base", {"base.py": "WORD = 'from base'\n"})
    middle, _ = wheel(packages, "middle", {"middle/__init__.py": "from base import WORD\n"})
    app, _ = wheel(
        packages,
        "app",
        {
            "app.py": "import middle\ndef main():\n    print(middle.WORD)\n",
            "app-1.0.dist-info/entry_points.txt": "[console_scripts]\nshow-word = app:main\n",
            "app-1.0.data/scripts/app-tool": "#!python\nimport middle\nprint('tool', middle.WORD)\n",
        },
    )
    write(project, "base", f"kind: python-app\nsource: {{path: {base}}}\n")
    write(project, "middle", f"kind: python-app\nsource: {{path: {middle}}}\ninputs: [base]\n")
    write(project, "app", f"kind: python-app\nsource: {{path: {app}}}\ninputs: [middle]\n")
    package = build(project, store, "app")
    assert show(store, package.output, "bin", "show-word") == "from base\n"
    assert show(store, package.output, "bin", "app-tool") == "tool from base\n"
    names = {path.name for path in store.closure([package.output])}
    assert names == {"app-1.0", "middle-1.0", "base-1.0"}
    nix.verify()


WHEELS = {
    "outside": ({"../x.py": ""}, "is outside of the wheel"),
    "no kind": ({"w-1.0.data/strange/x": ""}, "is of no kind that a wheel can have"),
}


@pytest.mark.parametrize("what", WHEELS)
def test_a_wheel_that_cannot_be_is_refused(project: Project, store: Store, what: str) -> None:
    files, message = WHEELS[what]
    name, _ = wheel(project.inventory / "packages", "w", files)
    write(project, "w", f"kind: python-app\nsource: {{path: {name}}}\n")
    with pytest.raises(BuildError, match=message):
        build(project, store, "w")


# --- what is refused --------------------------------------------------------------------------------------------------

FAULTS = {
    "kind: shell\n": "3:1: a recipe is of kind autotools, script, files or python-app",
    "kind: script\nbuild: x\n": "4:1: 'build' and 'kind' cannot stand side by side",
    "runtime: [jq]\n": "3:1: 'runtime' means nothing here",
    "kind: script\ninstall: {a: b}\n": "4:1: 'install' means nothing here",
    "kind: files\ninstall: {../a: b}\n": "4:1: '../a' is not a path below the package",
    "kind: files\ninstall: {a: /etc/shadow}\n": "4:1: '/etc/shadow' is not a path below the package",
    "kind: files\ninstall: {'a b': c}\n": "4:1: 'a b' has signs that `install` does not take",
    "outputs: [man]\n": "3:1: 'outputs' names each output once, and 'out' among them",
    "outputs: [out, src]\n": "3:1: 'src' cannot name an output",
    "source: {pypi: click}\n": "3:1: 'sha256' is missing: what is fetched is pinned by its hash",
    f"source: {{pypi: 'a b', sha256: {'0' * 64}}}\n": "3:10: 'a b' cannot name a project of the Python package index",
    f"source: {{urls: [], sha256: {'0' * 64}}}\n": "3:10: at least one is wanted here",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_told_with_its_place(project: Project, text: str) -> None:
    path = project.recipe("thing", f"version: 1.0\ntoolchain: host\n{text}")
    with pytest.raises(Faults) as error:
        load(path, "thing.yml")
    assert error.value.errors[0].message == f"thing.yml:{FAULTS[text]}"
