"""lock: pinning, moving, checking; and what plan and why say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler.cli.main import run

HOSTS = """\
all:
  vars: {desired: {packages: [greet, tree@1]}}
  hosts: {web01: {ansible_connection: local}}
"""
LOCK = "inventories/shop/reconciler.lock"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventories/shop").mkdir(parents=True)
    (tmp_path / "inventories/shop/hosts.yml").write_text(HOSTS)
    (tmp_path / "packages").mkdir()
    for name in ("greet", "tree"):
        offer(tmp_path, name, "1.0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offer(project: Path, name: str, *versions: str) -> None:
    listed = ", ".join(f"{version}: " for version in versions)
    (project / f"packages/{name}.yml").write_text(f"toolchain: host\nbuild: mkdir $out\nversions: {{{listed}}}\n")


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[str]:
    assert run("reconciler", arguments) == status
    return capsys.readouterr().out.splitlines()


def pins(project: Path) -> list[str]:
    text = (project / LOCK).read_text()
    return [line.partition(", at:")[0].strip() for line in text.splitlines() if "set:" in line]


def test_everything_new_is_pinned_and_a_second_time_nothing_moves(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, "lock") == [
        "+   greet    1.0      x86_64-linux",
        "+   tree@1   1.0      x86_64-linux",
        "",
        f"2 new in {LOCK}.",
    ]
    assert told(capsys, "lock") == [f"{LOCK} is complete; nothing moves."]
    assert told(capsys, "lock", "--check") == [f"{LOCK} is complete; nothing moves."]


def test_a_check_writes_nothing_and_ends_with_its_status(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "lock", "--check", status=9)[-1] == f"2 new in {LOCK}.  Nothing was written."
    assert not (project / LOCK).exists()


def test_what_is_pinned_stays_until_it_is_moved(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "lock")
    offer(project, "greet", "1.0", "2.0")
    offer(project, "tree", "1.0", "1.0.5", "2.0")
    assert told(capsys, "lock") == [f"{LOCK} is complete; nothing moves."]
    assert told(capsys, "lock", "--outdated") == [
        "~   greet    1.0 -> 2.0        x86_64-linux",
        "~   tree@1   1.0 -> 1.0.5      x86_64-linux",
        "",
        "next     reconciler lock --update greet --update tree@1",
    ]
    assert told(capsys, "lock", "--update", "tree")[-1] == f"1 moved in {LOCK}."
    assert pins(project) == ["x86_64-linux: {set: recipes, version: 1.0", "x86_64-linux: {set: recipes, version: 1.0.5"]
    assert told(capsys, "lock", "--update-all")[-1] == f"1 moved in {LOCK}."
    assert told(capsys, "lock", "--outdated") == [f"Nothing that {LOCK} pins has anything newer."]


def test_what_nothing_names_any_more_is_taken_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "lock")
    hosts = project / "inventories/shop/hosts.yml"
    hosts.write_text(hosts.read_text().replace(", tree@1", ""))
    assert told(capsys, "lock") == ["-   tree@1   1.0      x86_64-linux", "", f"1 no longer named in {LOCK}."]
    assert len(pins(project)) == 1


def test_a_name_that_the_lock_lacks_is_an_error_with_the_nearest(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "lock")
    before = (project / LOCK).read_bytes()
    assert run("reconciler", ["lock", "--update", "gret"]) == 2
    assert capsys.readouterr().err == "error: reconciler.lock has no 'gret'\nhint:  did you mean 'greet'?\n"
    assert (project / LOCK).read_bytes() == before


def test_locked_refuses_what_is_new_before_any_host_is_asked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("deploy", ["--hosts", "all", "--locked", "--yes"]) == 2
    error = capsys.readouterr().err
    assert "reconciler.lock does not have greet, tree@1, and --locked allows nothing new" in error
    assert not (project / LOCK).exists()


def test_a_deploy_pins_what_is_new_and_says_so(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RECONCILER_STORE", str(tmp_path / "store"))
    plan = told(capsys, "plan", "--locked", status=2)
    assert plan == []
    assert run("deploy", ["--hosts", "all", "--action", "build", "--yes"]) == 0
    assert f"locked     2 new references in {LOCK}: greet (1.0), tree@1 (1.0)" in capsys.readouterr().err.splitlines()
    assert len(pins(project)) == 2


def test_why_names_the_line_of_the_lock(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "lock")
    lines = told(capsys, "why", "web01", "greet")
    assert any(line.split()[:2] == ["locked", f"{LOCK}:5"] and "1.0, just now, by " in line for line in lines)
    found = json.loads("\n".join(told(capsys, "why", "web01", "greet", "--json")))
    assert found["entries"][0]["lock"]["version"] == "1.0"
