"""packages toolchain: the packages of a toolchain, pinned again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reconciler.cli.main import run
from reconciler.packages import debian
from tests.packages.debs import FakeApt, deb, entry
from tests.packages.test_toolchain import DEFINITION, FILES


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventories/shop").mkdir(parents=True)
    (tmp_path / "inventories/shop/hosts.yml").write_text("all: {hosts: {web01: {ansible_connection: local}}}\n")
    (tmp_path / "packages/toolchains").mkdir(parents=True)
    (tmp_path / "packages/toolchains/small.yml").write_text(DEFINITION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(debian, "_command", FakeApt(dict(FILES)))
    return tmp_path


def test_a_toolchain_is_pinned_and_what_moved_is_told(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("reconciler", ["packages", "toolchain", "small"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "packages/toolchains/small.yml\n"
    assert captured.err.splitlines() == [
        "x86_64-linux  core  1 -> 1:2.0-1",
        "x86_64-linux  ld  not there -> 1.0-1",
        "x86_64-linux  shell  not there -> 1.0-1",
    ]
    text = (project / "packages/toolchains/small.yml").read_text()
    assert run("reconciler", ["packages", "toolchain", "small"]) == 0
    assert capsys.readouterr().err == ""
    assert (project / "packages/toolchains/small.yml").read_text() == text
    newer = deb([entry("./usr/bin/ld.real", b"better linker", mode=0o755)])
    files = {key: content for key, content in FILES.items() if key[0] != "ld"} | {("ld", "1.1-1"): newer}
    monkeypatch.setattr(debian, "_command", FakeApt(files))
    assert run("reconciler", ["packages", "toolchain", "small"]) == 0
    assert capsys.readouterr().err == "x86_64-linux  ld  1.0-1 -> 1.1-1\n"
    assert (project / "packages/toolchains/small.yml").read_text() != text


def test_what_cannot_name_one_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", ["packages", "toolchain", "host"]) == 2
    assert "'host' cannot name a toolchain" in capsys.readouterr().err
    assert not (project / "packages/toolchains/host.yml").exists()
