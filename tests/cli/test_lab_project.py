"""The commands against hosts of the lab, in one story; each test goes on where the one before it ended."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


# Recipes by name with their build scripts, and the list of packages that lab02 shall have.
OwnPackages = Callable[[dict[str, str], str], None]


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
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
    lines = planned.out.splitlines()
    assert lines[2] == "lock       1 new reference in inventories/main/reconciler.lock: greet (1.0)"
    assert lines[4] == ("2 hosts    lab01 lab02   first deployment: these hosts are not managed yet")
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
    states = [host["state"] for host in again.document["hosts"]]
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


# --- what cannot be made ----------------------------------------------------------------------------------------------


@pytest.fixture
def own_packages(desk: Desk) -> Iterator[OwnPackages]:
    """Recipes of the test's own, and packages for one host; afterwards all is as it was."""
    hosts = desk.directory / "inventories/main/hosts.yml"
    before = hosts.read_text()
    made: list[Path] = []

    def write(packages: dict[str, str], wanted: str) -> None:
        for name, build in packages.items():
            made.append(desk.directory / f"packages/{name}.yml")
            made[-1].write_text(f"version: 1.0\ntoolchain: host\nbuild: |\n  {build}\n")
        hosts.write_text(before.replace("lab02:", f"lab02: {{desired: {{packages: [{wanted}]}}}}"))

    yield write
    hosts.write_text(before)
    for path in made:
        path.unlink()


def test_a_package_that_cannot_be_built_leaves_out_only_the_hosts_that_need_it(
    desk: Desk, own_packages: OwnPackages
) -> None:
    # Of all hosts lab02 alone wants it; lab01 changes too.
    own_packages({"broken": "echo no compiler here; exit 3", "fine": "mkdir $out"}, "broken, fine")
    hosts = desk.directory / "inventories/main/hosts.yml"
    hosts.write_text(hosts.read_text().replace("lab01:", "lab01: {desired: {packages: [fine]}}"))
    told = desk.run("deploy", "--hosts", "web", "--yes", "--json")
    assert told.status == 3
    first, second = told.document["hosts"]
    assert (first["state"], second["state"]) == ("confirmed", "failed")
    assert second["detail"] == (
        "broken-1.0 could not be built: the builder failed with exit status 3\n"
        "the last lines of its log:\n  no compiler here"
    )
    label, command = second["hint"].split(": ", 1)
    assert label == "the whole log"
    log = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert log.stdout == "no compiler here\n"
    assert 'lab02 failed reason="broken-1.0 could not be built: the builder failed with exit status 3"\n' in told.err

    kept = desk.run("history", "last")
    assert "lab02  FAILED before the switch: broken-1.0 could not be built" in kept.out
    assert "1 confirmed 1 failed: lab02" in desk.run("history", "-n", "1").out
    held_back = desk.run("deploy", "--hosts", "web", "--yes", "--all-or-nothing")
    assert held_back.status == 3
    hosts.write_text(hosts.read_text().replace("lab01: {desired: {packages: [fine]}}", "lab01:"))
    undone = desk.run("deploy", "--hosts", "lab01", "--yes")
    assert undone.status == 0


def test_two_packages_with_one_file_are_refused_before_anything_is_copied_and_later_by_the_plan(
    desk: Desk, own_packages: OwnPackages
) -> None:
    clash = {name: f"mkdir -p $out/bin; echo {name} > $out/bin/cc" for name in ("cc-one", "cc-two")}
    own_packages(clash, "cc-one, cc-two")
    line = 4
    expected = (
        f"error: two packages of the system own bin/cc: cc-one 1.0 and cc-two 1.0"
        f" (inventories/main/hosts.yml:{line}, :{line})\n       equal priority 5\n"
        "hint:  - cc-one: {priority: 4}      lower wins; both stay installed\n"
    )
    assert desk.run("plan").status == 0, "what is not built yet shows nothing"
    refused = desk.run("deploy", "--hosts", "lab02")
    assert (refused.status, refused.err.endswith(expected)) == (2, True), refused.err
    assert "lab02 staged" not in refused.err
    assert "1 failed: lab02" in desk.run("history", "-n", "1").out
    planned = desk.run("plan")
    assert (planned.status, planned.out, planned.err) == (2, "", expected)


def test_a_collision_on_the_target_is_told_in_the_same_words(desk: Desk, own_packages: OwnPackages) -> None:
    clash = {name: f"mkdir -p $out/bin; echo {name} > $out/bin/cd" for name in ("cd-one", "cd-two")}
    own_packages(clash, "cd-one, cd-two")
    refused = desk.run("deploy", "--hosts", "lab02", "--build-on", "target", "--json")
    assert refused.status == 3
    (host,) = refused.document["hosts"]
    assert host["detail"].startswith("two packages of the system own bin/cd: cd-one 1.0 and cd-two 1.0 (inventories/")
    assert host["hint"] == "- cd-one: {priority: 4}      lower wins; both stay installed"


def test_a_log_of_the_target_is_said_to_be_there(desk: Desk, own_packages: OwnPackages) -> None:
    own_packages({"broken": "echo no compiler there; exit 3"}, "broken")
    refused = desk.run("deploy", "--hosts", "lab02", "--build-on", "target", "--json")
    (host,) = refused.document["hosts"]
    assert host["hint"].startswith("on lab02: the whole log: ")


def test_a_store_path_that_is_nowhere_is_refused_by_the_plan_with_its_line(
    desk: Desk, own_packages: OwnPackages
) -> None:
    nowhere = f"/nix/store/{'a' * 32}-hello-2.10"
    own_packages({}, nowhere)
    for arguments in (["plan"], ["deploy", "--hosts", "lab02"], ["deploy", "--hosts", "lab02", "--action", "build"]):
        refused = desk.run(*arguments)
        assert refused.status == 2
        assert refused.err.endswith(
            f"error: inventories/main/hosts.yml:4:53: {nowhere} is not in this controller's store, and nothing says how"
            " to build it\nhint:  name a package instead of a store path, or copy it here from a host:"
            " reconciler import --copy\n"
        ), refused.err
    assert desk.run("plan", "--hosts", "lab01").status == 0


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
