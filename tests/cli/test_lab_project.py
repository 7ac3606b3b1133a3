"""The commands against hosts of the lab, in one story; each test goes on where the one before it ended."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.errors import RefusedError
from reconciler.lab import lab

INVENTORY = """\
all:
  children:
    web:
      hosts: {{lab01: , lab02: }}
  vars:
    ansible_user: root
    ansible_ssh_common_args: "-F {{{{ inventory_dir }}}}/.lab/ssh_config"
    desired:
      packages: [greet@{version}]
"""
RECIPE = """\
toolchain: host
build: |
  mkdir -p $out/bin
  printf '#!/bin/sh\\necho greet %s\\n' "$version" > $out/bin/greet
  chmod +x $out/bin/greet
versions: {1.0: , 2.0: }
"""


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.out)
        return found


@dataclass(frozen=True)
class Desk:
    """A project with its lab, and a home of its own."""

    directory: Path
    environment: dict[str, str]

    def run(self, *arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "reconciler.cli.main", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def want(self, version: str) -> None:
        (self.directory / "inventories/main/hosts.yml").write_text(INVENTORY.format(version=version))

    @property
    def lab(self) -> Path:
        return self.directory / "inventories/main/.lab"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    root = tmp_path_factory.mktemp("desk")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "home"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "RECONCILER_STORE": str(root / "store"),
        "TERM": "xterm",
    }
    (root / "home").mkdir()
    desk = Desk(root / "project", environment)
    desk.directory.mkdir()
    assert desk.run("init").status == 0
    try:
        lab.up(["lab01", "lab02"], desk.lab)
    except RefusedError as error:
        pytest.skip(f"no lab on this machine: {error}")
    yield desk
    lab.down(desk.lab)


def test_a_new_project_plans_without_error_and_deploys(desk: Desk) -> None:
    planned = desk.run("plan")
    assert (planned.status, planned.err) == (0, "")
    assert planned.out.splitlines()[3] == ("2 hosts    lab01 lab02   first deployment: these hosts are not managed yet")
    assert "  system   + greet   1.0" in planned.out.splitlines()
    assert desk.run("plan", "--exit-code").status == 9
    deployed = desk.run("deploy", "--hosts", "lab*", "--yes", "-m", "the first")
    assert deployed.status == 0
    assert deployed.out.splitlines()[:3] == [
        "host    state       system      greet",
        "lab01   confirmed   none -> 1   1.0",
        "lab02   confirmed   none -> 1   1.0",
    ]


def test_where_nobody_can_be_asked_it_refuses_and_says_what_it_would_have_asked(desk: Desk) -> None:
    (desk.directory / "packages/greet.yml").write_text(RECIPE)
    desk.want("1")
    refused = desk.run("deploy", "--hosts", "web")
    assert refused.status == 2
    assert refused.out == ""
    assert refused.err.endswith("error: would have asked: Switch 2 hosts?  (2 hosts change)\nhint:  --yes answers it\n")
    refused = desk.run("deploy", "--hosts", "all", "--yes")
    assert refused.status == 2
    assert "hint:  --yes alone is not enough here: --yes=2, after a look at the plan\n" in refused.err
    assert desk.run("deploy", "--hosts", "all", "--yes=3").status == 2


def test_on_a_terminal_it_asks_once_and_shows_progress(desk: Desk) -> None:
    def typed(answers: list[bytes]) -> tuple[int, str]:
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(desk.directory)
            words = [sys.executable, "-m", "reconciler.cli.main", "deploy", "--hosts", "web"]
            os.execve(sys.executable, words, desk.environment)
        screen = b""
        while True:
            try:
                piece = os.read(terminal, 4096)
            except OSError:
                break
            if not piece:
                break
            screen += piece
            if screen.count(b"/ no] ") > 3 - len(answers) and answers:
                os.write(terminal, answers.pop(0))
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode()

    status, screen = typed([b"l\n", b"d\n", b"yes\n"])
    assert status == 0, screen
    assert screen.count("Switch 2 hosts?  [yes / d diff / l hosts / no] ") == 3
    assert "stage    " in screen
    assert "nothing has changed yet" in screen
    assert "\x1b[32mconfirmed" in screen


def test_a_host_that_is_off_is_told_apart_and_the_rest_goes_on(desk: Desk) -> None:
    desk.want("2")
    lab.stop(["lab02"], desk.lab)
    deployed = desk.run("deploy", "--hosts", "web", "--yes", "-m", "version 2")
    assert deployed.status == 5
    assert "lab01   confirmed     2 -> 3   2.0" in deployed.out.splitlines()
    assert deployed.out.splitlines()[-1] == "exit status 5 (unreachable)"
    assert not [line for line in deployed.err.splitlines() if "\x1b" in line]
    assert desk.run("status").status == 0
    assert desk.run("status", "--exit-code").status == 5
    assert desk.run("doctor").status == 5
    lab.start(["lab02"], desk.lab)
    again = desk.run("deploy", "--hosts", "web", "--yes", "--json", "-m", "version 2")
    assert again.status == 0
    states = [host["state"] for host in again.document["hosts"]]  # type: ignore[attr-defined]
    assert states == ["unchanged", "confirmed"]


def test_a_run_with_nothing_to_do_is_no_deployment(desk: Desk) -> None:
    before = desk.run("history", "--json").document
    again = desk.run("deploy", "--hosts", "web")
    assert again.status == 0
    assert again.out.startswith("2 unchanged, 0 unreachable.")
    assert desk.run("history", "--json").document == before


def test_a_rollback_is_shown_asked_about_and_remembered(desk: Desk) -> None:
    checked = desk.run("rollback", "--deployment", "last", "--check")
    assert checked.status == 0
    assert "lab01   -                     nothing: " in checked.out
    assert "lab02   system    2 -> 1" in checked.out or "lab02   system    3 -> 2" in checked.out
    assert checked.out.splitlines()[-1] == "Nothing was changed."
    refused = desk.run("rollback", "--deployment", "last")
    assert refused.status == 2
    assert "error: would have asked: Roll back " in refused.err
    assert desk.run("rollback", "--deployment", "last", "--yes", "-m", "no good").status == 0
    refused = desk.run("deploy", "--hosts", "web", "--yes")
    assert refused.status == 7
    assert "error: this would bring back greet 2.0 on lab02, which " in refused.err
    assert ": 'no good')\nhint:  change the inventory, or deploy --again\n" in refused.err
    assert desk.run("deploy", "--hosts", "web", "--yes", "--again").status == 0


def test_a_rollback_of_nothing_in_particular_is_refused(desk: Desk) -> None:
    refused = desk.run("rollback")
    assert refused.status == 2
    assert "reconciler history lists them" in refused.err


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["status"], "inventory  inventories/main   2 hosts probed in "),
        (["doctor"], "lab01   ready   "),
        (["generations", "--hosts", "lab01"], "host    profile   generation    made          packages"),
        (["history", "--host", "lab01"], "host    when          id               who "),
        (["history"], "id               when          who "),
        (["history", "last"], ""),
        (["inventory"], "inventory  inventories/main   2 hosts"),
        (["why", "lab01", "greet"], "greet 2.0   /nix/store/"),
        (["lab", "list"], "host    state     ssh "),
    ],
)
def test_every_listing_is_data_and_has_a_json_form(desk: Desk, arguments: list[str], start: str) -> None:
    told = desk.run(*arguments)
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith(start)
    listed = desk.run(*arguments, "--json")
    assert listed.status == 0
    assert listed.document.get("format", 1) == 1


def test_a_host_key_is_shown_and_enrolled_after_asking(desk: Desk) -> None:
    known = desk.lab / "known_hosts"
    lines = known.read_text()
    known.write_text(
        "".join(line for line in lines.splitlines(keepends=True) if "lab01" not in line and _port(desk) not in line)
    )
    unknown = desk.run("doctor", "--hosts", "lab01")
    assert unknown.status == 5
    assert "reconciler trust lab01" in unknown.out
    shown = desk.run("trust", "lab01")
    assert shown.status == 2
    assert "would have asked: Enrol 1 host key in " in shown.err
    public = desk.lab / "hosts/lab01/host_key.pub"
    listed = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True)
    assert listed.stdout.split()[1] in shown.out
    assert desk.run("trust", "lab01", "--yes").status == 0
    assert "known already" in desk.run("trust", "lab01").out
    assert desk.run("doctor", "--hosts", "lab01").status == 0


def test_a_changed_host_key_is_not_enrolled_by_a_bare_yes(desk: Desk) -> None:
    known = desk.lab / "known_hosts"
    keys = {line.split()[0]: line for line in known.read_text().splitlines()}
    name = next(each for each in keys if _port(desk) in each or each == "lab01")
    other = next(line for each, line in keys.items() if each != name)
    known.write_text(f"{name} {' '.join(other.split()[1:])}\n{other}\n")
    refused = desk.run("trust", "lab01", "--yes")
    assert refused.status == 7
    assert "hint:  when you know why it changed: reconciler trust --replace lab01\n" in refused.err
    assert desk.run("trust", "lab01", "--replace", "--yes").status == 0
    assert desk.run("doctor", "--hosts", "lab01").status == 0


def _port(desk: Desk) -> str:
    return f":{next(host.port for host in lab.hosts(desk.lab) if host.name == 'lab01')}"
