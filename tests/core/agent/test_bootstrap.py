"""Starting the agent: from the channel, from what is kept, and never from what is damaged or somebody else's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from reconciler.core.agent import archive, bootstrap
from reconciler.core.agent.frames import MAGIC
from reconciler.core.agent.messages import BeginRequest, ObserveRequest
from reconciler.transport.errors import PythonError
from tests.core.agent.agents import agent
from tests.pythons import VERSIONS, interpreter

BEGIN = BeginRequest("260101-0000-aa", "tester", "a test")


def kept(root: Path) -> dict[str, Path]:
    folder = root / "nix/var/reconciler/agent"
    return {path.suffix: path for path in folder.iterdir()} if folder.is_dir() else {}


def start_state(root: Path, sha256: str | None = None) -> bytes:
    """What the bootstrap says when nobody answers: R for a kept copy, S for none."""
    sha256 = sha256 or archive.build().sha256
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        bootstrap.code(),
        sha256,
        f"{root}/nix/var/reconciler/agent",
        "-",
        str(root),
    ]
    out = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
    assert out.startswith(MAGIC)
    return out[len(MAGIC) : len(MAGIC) + 1]


def test_the_line_has_nothing_that_a_login_shell_treats_in_its_own_way() -> None:
    code = bootstrap.code()
    assert not re.search(r"['\\!\n\r\0`]", code)
    assert "$" not in code
    assert len(code) < 3000


def test_a_host_that_is_only_looked_at_keeps_nothing(tmp_path: Path) -> None:
    with agent(tmp_path / "root") as client:
        client.observe(ObserveRequest())
    assert list((tmp_path / "root").iterdir()) == []


def test_a_deployment_leaves_the_agent_and_the_next_start_uses_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert start_state(root) == b"S"
    with agent(root) as client:
        client.begin(BEGIN)
    tag = f".{MAGIC_NUMBER.hex()}"
    assert set(kept(root)) == {".zip", tag}
    assert start_state(root) == b"R"
    with agent(root) as client:
        assert client.observe(ObserveRequest()).managed
    kept(root)[tag].unlink()
    assert start_state(root) == b"R"
    with agent(root) as client:
        assert client.observe(ObserveRequest()).managed


def test_a_managed_host_keeps_a_new_agent_when_told_to(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "nix/var/reconciler").mkdir(parents=True)
    (root / "nix/var/reconciler/lock").touch()
    with agent(root) as client:
        client.observe(ObserveRequest())
    assert kept(root) == {}
    with agent(root, keep_cached=True) as client:
        client.observe(ObserveRequest())
    wait_until_kept(root)


def wait_until_kept(root: Path) -> None:
    for _ in range(200):
        if len(kept(root)) == 2 and not any(path.name.startswith(".") for path in kept(root).values()):
            return
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError(kept(root))


@pytest.fixture
def managed(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    with agent(root) as client:
        client.begin(BEGIN)
    return root


def works(root: Path) -> bool:
    with agent(root) as client:
        return client.observe(ObserveRequest()).managed


@pytest.mark.parametrize("position", [0, 40, 5000, -100])
def test_a_damaged_compiled_file_is_not_run(managed: Path, position: int) -> None:
    path = kept(managed)[f".{MAGIC_NUMBER.hex()}"]
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert works(managed)


def test_a_compiled_file_that_others_may_write_is_not_run(managed: Path) -> None:
    path = kept(managed)[f".{MAGIC_NUMBER.hex()}"]
    path.chmod(0o666)
    kept(managed)[".zip"].unlink()
    assert start_state(managed) == b"S"


def test_a_compiled_file_behind_a_link_is_not_run(managed: Path, tmp_path: Path) -> None:
    path = kept(managed)[f".{MAGIC_NUMBER.hex()}"]
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    kept(managed)[".zip"].unlink()
    assert start_state(managed) == b"S"


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_archive_is_asked_for_again(managed: Path, damage: str) -> None:
    kept(managed)[f".{MAGIC_NUMBER.hex()}"].unlink()
    path = kept(managed)[".zip"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": bytes(data), "truncate": bytes(data[:-1]), "empty": b""}[damage])
    assert start_state(managed) == b"S"
    assert works(managed)


def test_old_agents_are_forgotten_but_a_few(managed: Path) -> None:
    folder = managed / "nix/var/reconciler/agent"
    for number in range(6):
        old = folder / f"{number:064}.zip"
        old.write_bytes(b"old")
        (folder / f"{number:064}.cpython-39").write_bytes(b"old")
        os.utime(old, (number, number))
    kept(managed)[f".{MAGIC_NUMBER.hex()}"].unlink(missing_ok=True)
    for path in folder.glob(f"{archive.build().sha256}.*"):
        path.unlink()
    with agent(managed) as client:
        client.begin(BEGIN)
    names = {path.name.partition(".")[0] for path in folder.iterdir()}
    assert names == {archive.build().sha256, *(f"{number:064}" for number in (3, 4, 5))}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_agent_runs_under_every_python_from_the_channel_and_from_what_is_kept(tmp_path: Path, version: str) -> None:
    python = interpreter(version)
    root = tmp_path / "root"
    for _ in range(2):
        with agent(root, python) as client:
            assert client.python.startswith(f"{version}.")
            seen = client.observe(ObserveRequest())
            assert seen.python == client.python
            client.begin(BEGIN)
    assert len(list((root / "nix/var/reconciler/agent").iterdir())) == 2


@pytest.mark.parametrize(("version", "shown"), [("3.6", "3.6"), ("3.8", "3.8"), ("2.7", "2 or 3.3")])
def test_a_python_that_is_too_old_is_named(tmp_path: Path, version: str, shown: str) -> None:
    python = interpreter(version)
    with pytest.raises(PythonError, match=f"^Python {shown}.*: needs 3.9$") as caught, agent(tmp_path / "root", python):
        pass
    assert "ansible_python_interpreter: /usr/bin/python3.9" in str(caught.value.hint)


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    wanted = str(tmp_path / "python9")
    with pytest.raises(PythonError, match=r"python9: needs Python 3.9$"), agent(tmp_path / "root", wanted):
        pass
