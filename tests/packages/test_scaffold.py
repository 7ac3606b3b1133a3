"""First recipes: each can be read as it is written, and those from files can be built."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from reconciler.cli.main import run
from reconciler.core.errors import BuildError, UsageError
from reconciler.packages.recipe import load
from reconciler.packages.scaffold import scaffold
from reconciler.packages.specs import PathSpec, UrlSpec


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
        ("app-1.0-py3-none-any.whl", "PK", "python-app"),
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


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("a/b", None, "'a/b' cannot name a package"),
        ("a-1", None, "'a-1' cannot name a package"),
        ("x", "gone", "there is no file or directory 'gone'"),
        ("x", "/etc/hosts", "'/etc/hosts' does not lie below"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, name: str, source: str | None, message: str) -> None:
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
