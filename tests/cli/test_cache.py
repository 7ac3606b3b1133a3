"""cache push and key generate as they are typed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from reconciler.cli.main import run
from reconciler.core.nix.signature import PublicKey
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.binary_cache import BinaryCache
from reconciler.core.store.store import Store

HOSTS = """\
all:
  hosts:
    web01: {desired: {packages: [greet]}}
    web02: {desired: {packages: [other]}}
"""
RECIPE = "toolchain: host\nbuild: mkdir $out; echo $name > $out/name\nversions: {1.0: }\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventories/shop").mkdir(parents=True)
    (tmp_path / "inventories/shop/hosts.yml").write_text(HOSTS)
    (tmp_path / "packages").mkdir()
    for name in ("greet", "other"):
        (tmp_path / f"packages/{name}.yml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECONCILER_STORE", str(tmp_path / "root"))
    monkeypatch.delenv("RECONCILER_CACHE_KEY_FILE", raising=False)
    return tmp_path


@pytest.fixture
def text(project: Path) -> StorePath:
    """A path of the controller's store."""
    with Store.open(str(project / "root"), create=True) as store:
        return store.add_text("text", b"text", [store.add_text("dep", b"dep")])


def key(project: Path, capsys: pytest.CaptureFixture[str], name: str = "ours-1") -> str:
    """A key in a file of the project; its public half."""
    assert run("reconciler", ["key", "generate", name]) == 0
    return capsys.readouterr().out.strip()


def test_a_key_is_made_and_never_replaced(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0o077)
    try:
        assert run("reconciler", ["key", "generate", "ours-1"]) == 0
    finally:
        os.umask(before)
    done = capsys.readouterr()
    assert done.out == (project / "ours-1.public").read_text() + "\n"
    assert f"extra-trusted-public-keys = {done.out}" in done.err
    assert (project / "ours-1.secret").read_text().rpartition(":")[2] not in done.out + done.err
    modes = {name: stat.S_IMODE((project / name).stat().st_mode) for name in ("ours-1.secret", "ours-1.public")}
    assert modes == {"ours-1.secret": 0o600, "ours-1.public": 0o644}
    kept = (project / "ours-1.secret").read_text()
    assert run("reconciler", ["key", "generate", "ours-1"]) == 2
    assert "./ours-1.secret exists, and a key is never replaced" in capsys.readouterr().err
    (project / "ours-1.secret").unlink()
    assert run("reconciler", ["key", "generate", "ours-1"]) == 2
    assert not (project / "ours-1.secret").exists()
    assert kept


def test_a_key_goes_where_it_is_told_to_and_is_told_as_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "keys").mkdir()
    assert run("reconciler", ["key", "generate", "ours-1", "--out", "keys", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "format": 1,
        "name": "ours-1",
        "public": (project / "keys/ours-1.public").read_text(),
        "secret_file": "keys/ours-1.secret",
        "public_file": "keys/ours-1.public",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate"], "reconciler key needs NAME"),
        (["make", "x"], "key make: not one of generate"),
        (["generate", "../x"], "'../x' cannot name a key's files"),
        (["generate", "a:b"], "'a:b' cannot name the key"),
        (["generate", "x", "--out", "none"], "none: there is no such directory"),
    ],
)
def test_a_key_that_cannot_be_made_is_told(
    arguments: list[str], said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reconciler", ["key", *arguments]) in (2, 3)
    assert said in capsys.readouterr().err
    assert list(project.glob("*.secret")) == []


def test_store_paths_are_pushed_without_a_project(
    project: Path, text: StorePath, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    public = key(project, capsys)
    monkeypatch.setenv("RECONCILER_CACHE_KEY_FILE", str(project / "ours-1.secret"))
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    arguments = ["cache", "push", "--to", "cache", str(text)]
    assert run("reconciler", arguments) == 0
    done = capsys.readouterr()
    dep, top, _, counts, signed = done.out.splitlines()
    assert dep.startswith("+ /nix/store/")
    assert dep.split()[1].endswith("-dep")
    assert top.split()[:2] == ["+", str(text)]
    assert counts.startswith("2 paths pushed, ")
    assert counts.endswith(f".  {project}/elsewhere/cache")
    assert signed == f"signed   {public}"
    assert [line.split()[1:] for line in done.err.splitlines()] == [["pushed", "dep"], ["pushed", "text"]]
    assert BinaryCache("file://" + str(project / "elsewhere/cache"), [PublicKey.parse(public)]).narinfo(text)
    assert run("reconciler", [*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["cache"], found["key"]) == (1, f"{project}/elsewhere/cache", public)
    assert [(each["path"], each["state"]) for each in found["paths"]][1] == (str(text), "there")
    assert run("reconciler", arguments) == 0
    assert capsys.readouterr().out.startswith("0 paths pushed, 0 B; 2 already there; ")


def test_packages_and_hosts_are_built_when_they_are_missing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key(project, capsys)
    signing = ["--key", "ours-1.secret", "--json"]
    assert run("reconciler", ["cache", "push", "--to", f"file://{project}/one", *signing, "greet"]) == 0
    names = [each["path"][44:] for each in json.loads(capsys.readouterr().out)["paths"]]
    assert names[-1] == "greet-1.0"
    assert not any("user-environment" in name for name in names)
    assert run("reconciler", ["cache", "push", "--to", "two", *signing, "--hosts", "all", "-l", "web02"]) == 0
    names = [each["path"][44:] for each in json.loads(capsys.readouterr().out)["paths"]]
    assert "other-1.0" in names
    assert "greet-1.0" not in names
    assert any("user-environment" in name for name in names)
    assert (project / "two/nix-cache-info").exists()


def test_every_output_of_a_package_is_pushed_so_that_what_is_built_from_it_needs_no_build_of_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key(project, capsys)
    recipe = "version: 1\ntoolchain: host\noutputs: [out, dev]\nbuild: mkdir $out $dev\n"
    (project / "packages/library.yml").write_text(recipe)
    assert run("reconciler", ["cache", "push", "--to", "one", "--key", "ours-1.secret", "--json", "library"]) == 0
    names = [each["path"][44:] for each in json.loads(capsys.readouterr().out)["paths"]]
    assert {"library-1", "library-1-dev"} <= set(names)


def test_a_package_that_cannot_be_built_leaves_the_cache_as_it_was(
    project: Path, text: StorePath, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "packages/bad.yml").write_text(RECIPE.replace("mkdir $out", "exit 7"))
    assert run("reconciler", ["cache", "push", "--to", "one", "--unsigned", str(text), "bad"]) == 3
    assert "bad-1.0" in capsys.readouterr().err
    assert not (project / "one").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "cache push needs STORE-PATH, PACKAGE or --hosts PATTERN"),
        (["-l", "web01", "--to", "x"], "narrow what --hosts means"),
        (["greet", "--unsigned"], "cache push needs --to DIR"),
        (["greet", "--to", "x"], "there is no key to sign with: --key FILE, or $RECONCILER_CACHE_KEY_FILE"),
        (["greet", "--to", "x", "--key", "none"], "none: No such file or directory"),
        (["greet", "--to", "x", "--key", "none", "--unsigned"], "--key and --unsigned exclude each other"),
        (["greet", "--to", "https://u:canary@host/"], "--to https://…: a cache is pushed to a directory"),
        (["greet", "--to", "x", "--unsigned", "--compression", "xzz"], "'xzz' is not one of none, xz, bzip2"),
        (["/etc/passwd", "--to", "x", "--unsigned"], "'/etc/passwd' is no store path"),
        (["none", "--to", "x", "--unsigned"], "there is no package 'none'"),
        (["--hosts", "db*", "--to", "x", "--unsigned"], "db*"),
        (["greet", "--to", "x", "--unsigned", "-j", "0"], "'0' is not a number of jobs"),
    ],
)
def test_what_is_typed_wrong_is_told_and_nothing_is_written(
    arguments: list[str], said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reconciler", ["cache", "push", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "canary" not in error
    assert not (project / "x").exists()


def test_another_verb_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", ["cache", "pull"]) == 2
    assert "cache pull: not one of push" in capsys.readouterr().err


def test_a_path_that_is_not_valid_is_named(project: Path, text: StorePath, capsys: pytest.CaptureFixture[str]) -> None:
    absent = f"/nix/store/{'0' * 32}-absent"
    assert run("reconciler", ["cache", "push", "--to", "x", "--unsigned", str(text), absent]) == 3
    assert f"{absent} is not valid in" in capsys.readouterr().err
