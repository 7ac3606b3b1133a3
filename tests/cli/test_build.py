"""build: packages made here, and made twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler.cli.main import run
from reconciler.core.build.toolchain import host_system
from tests.oracle import RealNix

HOSTS = "all: {hosts: {web01: {ansible_connection: local}}}\n"
RECIPES = {
    "words": "version: 1.0\ntoolchain: host\nbuild: mkdir $out; echo words > $out/words\n",
    "greet": "version: 2.0\ntoolchain: host\ninputs: [words]\nbuild: mkdir $out; cat $words/words > $out/greet\n",
    "clock": "version: 1\ntoolchain: host\nbuild: mkdir $out; date +%N > $out/now; echo same > $out/same\n",
    "broken": "version: 1\ntoolchain: host\nbuild: echo it cannot be; exit 1\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventories/shop").mkdir(parents=True)
    (tmp_path / "inventories/shop/hosts.yml").write_text(HOSTS)
    (tmp_path / "packages").mkdir()
    for name, text in RECIPES.items():
        (tmp_path / f"packages/{name}.yml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECONCILER_STORE", str(tmp_path / "store"))
    return tmp_path


def test_a_package_is_built_with_what_it_needs_and_its_place_printed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reconciler", ["build", "greet"]) == 0
    captured = capsys.readouterr()
    (place,) = captured.out.splitlines()
    assert Path(place, "greet").read_text() == "words\n"
    assert [line.split(" ", 1)[1] for line in captured.err.splitlines()] == [
        "here builds words-1.0",
        "here built words-1.0",
        "here builds greet-2.0",
        "here built greet-2.0",
    ]
    assert not (project / "inventories/shop/reconciler.lock").exists()
    RealNix(project / "store").verify()


def test_a_second_build_that_is_the_same_is_said_to_be(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", ["build", "greet", "words", "--check"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1::2] == ["  built twice, the same both times"] * 2


def test_a_second_build_that_differs_names_the_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", ["build", "clock", "--check"]) == 3
    assert capsys.readouterr().out.splitlines()[1:] == ["  built twice, clock-1 DIFFERS:", "    now"]
    assert run("reconciler", ["build", "clock", "--check", "--json"]) == 3
    (package,) = json.loads(capsys.readouterr().out)["packages"]
    assert [each["files"] for each in package["differences"]] == [["now"]]
    RealNix(project / "store").verify()


def test_a_build_that_fails_shows_its_log_and_where_it_lies(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", ["build", "broken", "words", "--keep-failed"]) == 3
    error = capsys.readouterr().err
    assert "it cannot be" in error
    assert "here built words-1.0" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build"], "build needs PACKAGE"),
        (["build", "grete"], "there is no package 'grete'"),
        (["build", f"/nix/store/{'0' * 32}-x", "--check"], "is not built but fetched: there is nothing to build twice"),
    ],
)
def test_what_cannot_be_built_is_told(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run("reconciler", arguments) == 2
    assert message in capsys.readouterr().err


def test_builders_that_nobody_lists_or_that_are_no_hosts_are_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reconciler", ["build", "words", "--build-on", "builders"]) == 2
    err = capsys.readouterr().err
    assert "--build-on builders: reconciler.yml lists no builders" in err
    assert "builders: [HOST, …] names hosts that build" in err
    (project / "reconciler.yml").write_text("builders: [web02]\n")
    assert run("reconciler", ["build", "words"]) == 2
    err = capsys.readouterr().err
    assert "reconciler.yml:1:12: builders: no host of the inventory is called 'web02'" in err
    assert "did you mean 'web01'?" in err
    assert not (project / "store").exists()
    # Listed, it is asked only for what this controller cannot build.
    (project / "reconciler.yml").write_text("builders: [{web01: {features: []}}]\n")
    assert run("reconciler", ["build", "words"]) == 0
    assert "here built words-1.0" in capsys.readouterr().err


def test_a_host_toolchain_of_a_system_that_is_only_emulated_is_refused_before_any_build(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "aarch64-linux" if host_system() == "x86_64-linux" else "x86_64-linux"
    (project / "reconciler.yml").write_text(f"builders: [controller: {{system: {other}}}]\n")
    host = f"web01: {{ansible_connection: local, desired: {{system: {other}, packages: [greet]}}}}"
    (project / "inventories/shop/hosts.yml").write_text(f"all: {{hosts: {{{host}}}}}\n")
    said = f" is for {other} with `toolchain: host`, and who runs such programs only emulates {other}: controller\n"
    assert run("reconciler", ["build", "greet", "--system", other]) == 3
    err = capsys.readouterr().err
    assert f"greet-2.0{said}" in err
    assert f"a pinned toolchain is of every system, write `toolchain: debian-12`; or list a host that is {other}" in err
    assert " builds " not in err
    assert run("reconciler", ["deploy", "--hosts", "web01", "--action", "build"]) == 2
    err = capsys.readouterr().err
    assert f"error: inventories/shop/hosts.yml:1:94: greet of web01: greet-2.0{said}" in err
    assert " builds " not in err
