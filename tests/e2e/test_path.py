"""docs/environment.md: where a deployed package is on PATH and where it is not, each row by a real run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.e2e.terminal import Terminal
from tests.hosts.host import Options, TestHost, make_fleet

pytestmark = [pytest.mark.root, pytest.mark.nix]

SYSTEM_BIN = "/run/current-system/sw/bin"
# What tells whether the system's and the user's own packages are found, whatever they print.
WHERE = "command -v greet; command -v tally; true"
BOTH = f"{SYSTEM_BIN}/greet\n{{home}}/.nix-profile/bin/tally\n"


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One host with greet for the system, and tally for four users; the tests here leave it as they found it."""
    directory = tmp_path_factory.mktemp("path")
    fleet = make_fleet(directory / "fleet", ["web01"], Options())
    # The distribution's own file, in place of the one that test hosts are furnished with.
    shutil.copy("/etc/profile", fleet[0].root / "etc/profile")
    try:
        made = Operator(directory, fleet)
        tally = {"packages": ["tally"]}
        made.want({"packages": ["greet@1.0"], "users": dict.fromkeys(("root", "alice", "bob", "deploy"), tally)})
        made.run("deploy", "--hosts", "web01", "--yes")
        yield made
        made.verify()
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def host(admin: Operator) -> TestHost:
    return admin.fleet[0]


@contextmanager
def replaced(host: TestHost, path: str, text: str) -> Iterator[None]:
    """A file of the host with other contents for a while."""
    file = host.root / path.lstrip("/")
    before = file.read_text() if file.exists() else None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


# --- yes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("alice", "bash -l -c '{where}'"),
        ("alice", "dash -l -c '{where}'"),
        ("bob", "sh -l -c '{where}'"),
        ("root", "bash -l -c '{where}'"),
    ],
)
def test_a_login_shell_finds_the_systems_and_the_users_packages(host: TestHost, user: str, command: str) -> None:
    shown = host.run(command.format(where=WHERE), user).stdout
    home = "/root" if user == "root" else f"/home/{user}"
    assert shown == BOTH.format(home=home)


@pytest.mark.parametrize("user", ["alice", "bob", "deploy"])
def test_su_with_a_login_shell_finds_them(host: TestHost, user: str) -> None:
    done = host.run(["su", "-", user, "-c", WHERE])
    assert done.stdout == BOTH.format(home=f"/home/{user}"), done.stderr


@pytest.mark.parametrize("user", ["alice", "bob", "root"])
def test_an_ssh_login_on_a_terminal_finds_them_and_they_run(host: TestHost, user: str) -> None:
    command = ["ssh", "-F", str(host.fleet.ssh_config), "-l", user, host.name]
    with Terminal(command, {"PATH": os.environ["PATH"]}) as terminal:
        terminal.send("greet && tally && echo the-end-$((40 + 2))")
        shown = terminal.expect("the-end-42")
        terminal.send("exit")
        terminal.end()
    assert "hello from words 1.0\n" in shown
    assert "tally\n" in shown


def test_a_login_on_the_console_finds_them(host: TestHost) -> None:
    done = host.run(["script", "-qec", "login -f alice", "/dev/null"], stdin=f"stty -echo\n{WHERE}\nexit\n")
    assert BOTH.format(home="/home/alice") in done.stdout.replace("\r", ""), done.stdout


def test_sudo_with_a_login_shell_finds_the_target_users(host: TestHost) -> None:
    assert host.run("sudo -i greet && sudo -i tally", "deploy").stdout == "hello from words 1.0\ntally\n"
    assert host.run(f"sudo -iu alice sh -c '{WHERE}'", "deploy").stdout == BOTH.format(home="/home/alice")


@pytest.mark.parametrize("options", ["-l -c", "-c"])
def test_fish_finds_them_as_a_login_shell_and_otherwise(host: TestHost, options: str) -> None:
    done = host.run(f"{program('fish')} {options} 'command -v greet tally'", "alice")
    assert done.stdout == BOTH.format(home="/home/alice"), done.stderr


def test_a_command_by_ssh_finds_them_where_fish_is_the_login_shell(host: TestHost) -> None:
    accounts = (host.root / "etc/passwd").read_text()
    with replaced(host, "/etc/passwd", accounts.replace("/home/bob:/bin/sh", f"/home/bob:{program('fish')}")):
        assert host.ssh("command -v greet tally", "bob").stdout == BOTH.format(home="/home/bob")


def test_a_login_shell_knows_the_other_variables(host: TestHost) -> None:
    shown = host.run("bash -l -c 'echo $XDG_DATA_DIRS; echo $PATH'", "alice").stdout.splitlines()
    assert shown[0].split(":")[:3] == [
        "/home/alice/.nix-profile/share",
        "/nix/var/nix/profiles/default/share",
        "/run/current-system/sw/share",
    ]
    assert shown[1].split(":")[:3] == ["/home/alice/.nix-profile/bin", "/nix/var/nix/profiles/default/bin", SYSTEM_BIN]


# --- no, and what to do about it --------------------------------------------------------------------------------------


def nothing(shown: str) -> bool:
    return shown == ""


def test_a_command_by_ssh_does_not_find_them_but_in_the_ways_that_are_said(host: TestHost) -> None:
    assert nothing(host.ssh(WHERE, "alice").stdout)
    assert host.ssh(f"bash -lc '{WHERE}'", "alice").stdout == BOTH.format(home="/home/alice")
    assert host.ssh(f"{SYSTEM_BIN}/greet; ~/.nix-profile/bin/tally", "alice").stdout == "hello from words 1.0\ntally\n"
    with replaced(host, "/etc/environment", f"PATH={SYSTEM_BIN}:/usr/local/bin:/usr/bin:/bin\n"):
        assert host.ssh("greet", "alice").stdout == "hello from words 1.0\n"


def test_sudo_does_not_find_them_but_in_the_ways_that_are_said(host: TestHost) -> None:
    assert host.run("bash -lc 'sudo greet'", "deploy").returncode == 1
    assert host.run(f"sudo {SYSTEM_BIN}/greet", "deploy").stdout == "hello from words 1.0\n"
    sudoers = (host.root / "etc/sudoers").read_text()
    with replaced(host, "/etc/sudoers", sudoers.replace("/usr/local/sbin:", f"/usr/local/sbin:{SYSTEM_BIN}:")):
        assert host.run("sudo greet", "deploy").stdout == "hello from words 1.0\n"


def cron_says(host: TestHost, head: str, command: str) -> str:
    """What a job of alice prints under a real cron; `@reboot` is at cron's start, so that nobody waits for a minute."""
    crontab = host.root / "var/spool/cron/crontabs/alice"
    out = host.root / "home/alice/cron.out"
    out.unlink(missing_ok=True)
    crontab.write_text(f"{head}@reboot ({command}) >cron.new 2>&1; mv cron.new cron.out\n")
    crontab.chmod(0o600)
    os.chown(crontab, 1001, 1001)
    try:
        host.run(
            f"rm -f /run/crond.reboot; {program('cron')} -f & pid=$!; for i in $(seq 500);"
            " do [ -e /home/alice/cron.out ] && break; sleep 0.01; done; kill $pid; wait $pid"
        )
        return out.read_text()
    finally:
        crontab.unlink()
        out.unlink(missing_ok=True)


def test_cron_does_not_find_them_but_in_the_ways_that_are_said(host: TestHost) -> None:
    assert cron_says(host, "", f"echo $PATH; {WHERE}") == "/usr/bin:/bin\n"
    assert cron_says(host, f"PATH={SYSTEM_BIN}:/usr/bin:/bin\n", "greet") == "hello from words 1.0\n"
    whole = f"{SYSTEM_BIN}/greet; $HOME/.nix-profile/bin/tally"
    assert cron_says(host, "", whole) == "hello from words 1.0\ntally\n"


def test_zsh_does_not_find_them_until_its_zprofile_reads_the_file(host: TestHost) -> None:
    zsh = program("zsh")
    login = f"{zsh} -l -c '{WHERE}'"
    with replaced(host, "/etc/zsh/zprofile", "# Debian's holds comments alone.\n"):
        assert nothing(host.run(login, "alice").stdout)
    for line in (
        "emulate sh -c '. /etc/profile.d/reconciler.sh'",
        # As Ubuntu ships it.
        "emulate sh -c 'source /etc/profile'",
    ):
        with replaced(host, "/etc/zsh/zprofile", f"{line}\n"):
            assert host.run(login, "alice").stdout == BOTH.format(home="/home/alice")
            assert nothing(host.run(f"{zsh} -c '{WHERE}'", "alice").stdout)


def test_a_unit_does_not_find_them_but_by_the_whole_path(host: TestHost) -> None:
    """No systemd runs here: the environment is what systemd gives to a unit, by what it says of itself."""
    default = subprocess.run(
        [program("systemd-path"), "search-binaries-default"], capture_output=True, text=True, check=True
    ).stdout.strip()
    unit = ["env", "-i", f"PATH={default}", "LANG=C.UTF-8"]
    assert nothing(host.run([*unit, "/bin/sh", "-c", WHERE]).stdout)
    assert host.run([*unit, f"{SYSTEM_BIN}/greet"]).stdout == "hello from words 1.0\n"
    with_path = [*unit, f"PATH={SYSTEM_BIN}:{default}"]
    assert host.run([*with_path, "/bin/sh", "-c", "greet"]).stdout == "hello from words 1.0\n"


# --- over deployments and boots ---------------------------------------------------------------------------------------


def test_an_open_shell_and_a_path_that_names_links_follow_a_deployment(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    (host,) = admin.fleet
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01")
    command = ["ssh", "-F", str(host.fleet.ssh_config), host.name]
    with Terminal(command, {"PATH": os.environ["PATH"]}) as terminal:
        terminal.send("greet")
        terminal.expect("hello from words 1.0\n")
        admin.want({"packages": ["greet@2.0"]})
        admin.run("deploy", "--hosts", "web01")
        terminal.send("greet")
        terminal.expect("hello from words 2.0\n")
        terminal.send("exit")
        terminal.end()
    assert host.run(f"{SYSTEM_BIN}/greet").stdout == "hello from words 2.0\n"


def test_a_boot_makes_what_runs_from_the_profile_and_status_is_true_before_and_after(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    (host,) = admin.fleet
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01")

    # A boot whose tmpfiles have not been made yet: /run is new.
    line = host.root / "etc/tmpfiles.d/reconciler.conf"
    kept = line.rename(line.with_suffix(".off"))
    host.stop()
    host.start()
    kept.rename(line)
    assert host.run("ls -A /run/current-system").returncode != 0
    assert host.run(["bash", "-lc", "greet"]).returncode == 127
    shown = admin.run("status", "--exit-code", status=9).stdout
    assert "DRIFT" in shown
    assert "/run/current-system is nothing" in shown

    host.run([program("systemd-tmpfiles"), "--create", "--boot", "/etc/tmpfiles.d/reconciler.conf"])
    assert host.run("readlink /run/current-system").stdout == "/nix/var/nix/profiles/system\n"
    assert host.run(["bash", "-lc", "greet"]).stdout == "hello from words 1.0\n"
    (found,) = admin.json("status", "--exit-code")["hosts"]
    assert found["state"] == "ok"
    assert found["running"] == os.readlink(host.root / "nix/var/nix/profiles/system-1-link")

    # What runs is pinned before the profile moves under it: an action that only sets the profile activates nothing.
    admin.want({"packages": ["greet@2.0"]})
    admin.run("deploy", "--hosts", "web01", "--action", "boot")
    assert host.run(["bash", "-lc", "greet"]).stdout == "hello from words 1.0\n"
    assert "the system profile is" in admin.run("status", "--exit-code", status=9).stdout
    host.stop()
    host.start()
    host.run([program("systemd-tmpfiles"), "--create", "--boot", "/etc/tmpfiles.d/reconciler.conf"])
    assert host.run(["bash", "-lc", "greet"]).stdout == "hello from words 2.0\n"
    assert "ok" in admin.run("status", "--exit-code").stdout


def test_every_row_of_the_table_is_run_here() -> None:
    """A row that is added to the table has to be proved too."""
    text = (Path(__file__).parents[2] / "docs/environment.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == [
        "where",
        "login shell: sh, bash, dash (`ssh HOST`, console, `su -`, `sudo -i`)",
        "fish",
        "zsh as a login shell",
        "`ssh HOST COMMAND`",
        "`sudo COMMAND`",
        "cron",
        "a systemd unit",
        "desktop sessions, ksh, RHEL's zsh",
    ]
