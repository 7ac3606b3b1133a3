"""What a deploy survives on real sshd hosts, and that its report is then what a probe of the hosts finds."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.e2e.terminal import Terminal
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

SYSTEM = "nix/var/nix/profiles/system"
ALICE = "nix/var/nix/profiles/per-user/alice/profile"
SLOW = {"packages": ["greet@2.0", "slow"], "users": {"alice": {"packages": ["tally", "words"]}}}
ID = r"\d{6}-\d{4}-[a-z]\d"


def first(operator: MakeOperator, *hosts: str, **options: object) -> Operator:
    """Hosts with greet 1.0 for the system and tally for alice, deployed."""
    admin = operator(list(hosts), **options)
    admin.want({"packages": ["greet@1.0"], "users": {"alice": {"packages": ["tally"]}}})
    admin.run("deploy", "--hosts", "web*", "--yes", "-m", "first")
    return admin


def colleague(admin: Operator, tmp_path: Path) -> Operator:
    """Somebody else with the same inventory: another home, another journal, another store."""
    directory = tmp_path / "colleague"
    directory.mkdir()
    return Operator(directory, admin.fleet)


def generation(host: TestHost, profile: str = SYSTEM) -> str:
    return os.readlink(host.root / profile)


def greeting(host: TestHost) -> str:
    return host.run("/run/current-system/sw/bin/greet").stdout.strip()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def must(host: TestHost, command: str) -> None:
    done = host.run(command)
    assert done.returncode == 0, done.stderr


@contextmanager
def under_way(admin: Operator, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on while the test does something; it does not outlive the block."""
    process = admin.popen(*words)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def copies(host: TestHost) -> bool:
    """Whether the host is getting `slow`, and has not all of it."""
    return any(host.root.glob("nix/store/*-slow-1.0/share/zeros"))


def agents(host: TestHost) -> list[int]:
    """The agent's processes on a host, as the machine numbers them."""
    return [pid for pid, line in host.processes().items() if "-I -S" in line and not line.startswith("sshd")]


def lock_is_free(host: TestHost) -> bool:
    with (host.root / "nix/var/reconciler/lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def built(admin: Operator) -> None:
    """Have what is wanted in the controller's store, so that a deploy begins with copying."""
    admin.run("deploy", "--hosts", "web*", "--action", "build")


def states(report: Any) -> dict[str, str]:
    return {host["host"]: host["state"] for host in report["hosts"]}


def finished(process: subprocess.Popen[str], status: int, seconds: float = 90) -> tuple[str, str]:
    """What a command printed; the test fails when it does not end with `status`."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == status, f"{process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err, err
    return out, err


def report_is_what_a_probe_finds(admin: Operator, report: Any) -> None:
    """`now` of each profile that the report speaks of, against a new probe."""
    found = {host["host"]: host for host in admin.json("status")["hosts"]}
    for host in report["hosts"]:
        if not host["probed"]:
            continue
        current = {profile["profile"]: profile["current"] for profile in found[host["host"]]["profiles"]}
        for profile in host["profiles"]:
            assert profile["now"] == current.get(profile["profile"]), (host["host"], profile["profile"])


# --- two at once ------------------------------------------------------------------------------------------------------


def test_of_two_deploys_of_one_host_one_wins_and_the_other_is_told_who_holds_it(
    operator: MakeOperator, tmp_path: Path
) -> None:
    admin = first(operator, "web01", "web02")
    other = colleague(admin, tmp_path)
    (host, _) = admin.fleet
    admin.want(SLOW)
    built(admin)
    with under_way(admin, "deploy", "--hosts", "web01", "-m", "the winner", "--json") as winner:
        wait_until(lambda: copies(host))
        winner.send_signal(signal.SIGSTOP)  # it holds the host and says nothing, for less than what makes it dead
        admin.want({"packages": ["tally"]})
        refused = other.run("deploy", "--hosts", "web*", "--yes", "-m", "too late", status=7)
        assert generation(host) == "system-1-link"
        winner.send_signal(signal.SIGCONT)
        won = json.loads(finished(winner, 0)[0])
    assert re.search(
        rf"web01  REFUSED before the switch: web01 is locked: \S+ deploys {won['deployment']} since [\d:]{{8}} "
        r"\(pid \d+\)\n.*\n +next  wait until it has ended",
        refused.stdout,
    ), refused.stdout
    assert generation(admin.fleet["web02"]) == "system-2-link", "a host that nobody else has goes on"
    assert states(other.json("deploy", "--hosts", "web*", "--yes")) == {"web01": "confirmed", "web02": "unchanged"}


def test_fleets_that_overlap_in_opposite_order_end_without_a_deadlock(operator: MakeOperator, tmp_path: Path) -> None:
    admin = first(operator, "web01", "web02")
    other = colleague(admin, tmp_path)
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally"]}}})
    with (
        under_way(admin, "deploy", "--hosts", "web01,web02", "--yes", "--forks", "1") as one,
        under_way(other, "deploy", "--hosts", "web02,web01", "--yes", "--forks", "1") as another,
    ):
        for run in (one, another):
            out, err = run.communicate(timeout=60)
            assert run.returncode in (0, 7), f"{run.returncode}\n{out}\n{err}"
    assert admin.run("deploy", "--hosts", "web*", "--yes")
    assert {greeting(host) for host in admin.fleet} == {"hello from words 2.0"}
    assert {generation(host) for host in admin.fleet} == {"system-2-link"}


# --- the controller ends ----------------------------------------------------------------------------------------------


def interrupted(admin: Operator, *signals: signal.Signals) -> tuple[int, str, str]:
    """Deploy until the hosts are getting something, then send signals; how it ended."""
    # One after the other, so that there is something left to do when the first is seen at it.
    with under_way(admin, "deploy", "--hosts", "web*", "--yes", "--json", "--forks", "1") as process:
        wait_until(lambda: any(copies(host) for host in admin.fleet))
        for number in signals:
            process.send_signal(number)
            time.sleep(0.01)
        out, err = process.communicate(timeout=10)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def test_an_interrupted_stage_leaves_hosts_as_they_were_and_their_locks_free(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02")
    admin.want(SLOW)
    built(admin)
    for signals in ([signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGINT]):
        status, out, err = interrupted(admin, *signals)
        if len(signals) == 1:
            assert status == 3, (signals, err)
            report = json.loads(out)
            assert {(host["state"], host["detail"]) for host in report["hosts"]} == {
                ("failed", "interrupted before the switch")
            }
            report_is_what_a_probe_finds(admin, report)
        else:
            # The second may come when the first has been dealt with.
            assert status == 3 or (status, err.splitlines()[-1]) == (130, "error: interrupted"), (status, err)
        wait_until(lambda: all(lock_is_free(host) for host in admin.fleet), 5)
        for host in admin.fleet:
            assert generation(host) == "system-1-link"
            assert greeting(host) == "hello from words 1.0"
        assert all(entry["finished"] for entry in admin.json("history")["deployments"])
    for host in admin.fleet:
        host.verify_store()
    assert states(admin.json("deploy", "--hosts", "web*", "--yes")) == {"web01": "confirmed", "web02": "confirmed"}


def test_after_a_killed_stage_the_hosts_are_as_they_were_and_the_next_deployment_goes_on(
    operator: MakeOperator,
) -> None:
    admin = first(operator, "web01", "web02")
    admin.want(SLOW)
    built(admin)
    assert interrupted(admin, signal.SIGKILL)[0] == -signal.SIGKILL
    wait_until(lambda: all(lock_is_free(host) for host in admin.fleet), 10)
    for host in admin.fleet:
        assert (generation(host), greeting(host)) == ("system-1-link", "hello from words 1.0")
        host.verify_store()
    latest = admin.json("history")["deployments"][0]
    assert not latest["finished"]
    assert states(admin.json("deploy", "--hosts", "web*", "--yes")) == {"web01": "confirmed", "web02": "confirmed"}


def test_what_switches_when_the_controller_is_killed_is_switched_whole_and_is_told_and_undone(
    operator: MakeOperator,
) -> None:
    admin = first(operator, "web01", "web02")
    half, later = admin.fleet
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally", "words"]}}})
    built(admin)
    # One host at a time switches; the second has only been staged.
    with under_way(admin, "deploy", "--hosts", "web*", "--yes", "-m", "killed", "--forks", "1") as process:
        with profile_locked(half):
            wait_until(lambda: half_switched(half))
            process.kill()
            process.communicate(timeout=10)
        wait_until(lambda: all(lock_is_free(host) for host in admin.fleet), 10)
    # Nobody waits for the answer of the request that was under way; it is carried out whole all the same.
    assert (generation(half), generation(half, ALICE)) == ("system-2-link", "profile-2-link")
    assert (generation(later), generation(later, ALICE)) == ("system-1-link", "profile-1-link")
    for host in admin.fleet:
        assert not (host.root / "nix/var/reconciler/switching").exists()
        host.verify_store()
    assert {host["host"]: host["state"] for host in admin.json("status")["hosts"]} == {"web01": "ok", "web02": "behind"}
    entry = admin.json("history")["deployments"][0]
    assert (entry["message"], entry["finished"]) == ("killed", False)

    back = admin.json("rollback", "--deployment", entry["id"], "--yes")
    assert states(back)["web01"] == "confirmed"
    assert (greeting(half), greeting(later)) == ("hello from words 1.0", "hello from words 1.0")
    report = admin.json("deploy", "--hosts", "web*", "--yes", "--again")
    assert states(report) == {"web01": "confirmed", "web02": "confirmed"}
    assert (greeting(half), greeting(later)) == ("hello from words 2.0", "hello from words 2.0")


# --- the link, and hosts that fall silent -----------------------------------------------------------------------------


def test_a_lost_and_a_silent_host_are_left_out_of_the_stage_and_the_others_go_on(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02", "web03", "web04")
    lost, silent, good, early = admin.fleet
    admin.want(SLOW)
    admin.want({"drop": {"packages": ["slow"]}}, "host_vars/web04")
    built(admin)
    with under_way(admin, "deploy", "--hosts", "web*", "--yes", "--json") as process:
        wait_until(lambda: copies(silent))
        silent.freeze()
        wait_until(lambda: copies(lost))
        lost.kill_sessions()
        # It has been staged, waits for the others, and goes away before it is asked to switch.
        wait_until(lambda: os.path.lexists(early.root / "nix/var/nix/gcroots/reconciler/system"))
        early.stop()
        started = time.monotonic()
        report = json.loads(finished(process, 5)[0])
    assert 15 < time.monotonic() - started < 40
    assert states(report) == {
        "web01": "unreachable",
        "web02": "unreachable",
        "web03": "confirmed",
        "web04": "unreachable",
    }
    details = {host["host"]: host["detail"] for host in report["hosts"]}
    assert re.fullmatch("ssh .*: the connection broke", details["web01"])
    assert re.fullmatch("ssh .*: silent for 20 s", details["web02"])
    assert greeting(good) == "hello from words 2.0"
    silent.thaw()
    early.start()
    wait_until(lambda: all(lock_is_free(host) for host in admin.fleet))
    report_is_what_a_probe_finds(admin, report)
    for host in (lost, silent, early):
        assert generation(host) == "system-1-link"
        host.verify_store()
    report = admin.json("deploy", "--hosts", "web*", "--yes")
    assert states(report) == {
        "web01": "confirmed",
        "web02": "confirmed",
        "web03": "unchanged",
        "web04": "confirmed",
    }


def inside(host: TestHost) -> Path:
    """The host's root as its own processes see it, with what is mounted there."""
    return Path(f"/proc/{host.pid}/root")


@contextmanager
def profile_locked(host: TestHost) -> Iterator[None]:
    """Hold Nix's lock of alice's profile, as a nix-env does: a switch stands still when it has done the system's."""
    path = inside(host) / f"{ALICE}.lock"
    with path.open("a") as lock:
        os.fchown(lock.fileno(), 1001, 1001)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        if host.pid:
            path.unlink()
            lock.write("d")  # how Nix says that whoever waited for this file has to open a new one


def half_switched(host: TestHost) -> bool:
    state = inside(host) / "nix/var/reconciler/switching"
    return state.exists() and os.readlink(inside(host) / SYSTEM) == "system-2-link"


def test_after_a_link_that_broke_during_the_switch_the_report_is_what_a_probe_finds(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02", "web03")
    unlinked, killed, off = admin.fleet
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally", "words"]}}})
    built(admin)
    with under_way(admin, "deploy", "--hosts", "web*", "--yes", "--json", "-m", "cut off") as process:
        with profile_locked(unlinked), profile_locked(killed), profile_locked(off):
            wait_until(lambda: all(half_switched(host) for host in admin.fleet))
            off.stop()
            # One that it starts while they are counted is killed too.
            while left := agents(killed):
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            unlinked.kill_sessions()
        report = json.loads(finished(process, 6)[0])
    assert states(report) == {"web01": "confirmed", "web02": "confirmed", "web03": "unknown"}
    hosts = {host["host"]: host for host in report["hosts"]}
    assert hosts["web01"]["detail"] == "the link was lost during the switch; a new probe found it done"
    assert not hosts["web01"]["partial"]
    # Its agent was killed between two profiles: switched, less one of them.
    assert hosts["web02"]["partial"]
    assert hosts["web02"]["detail"] == "the link was lost during the switch; alice: a new probe found it not done"
    assert not hosts["web03"]["probed"]
    assert hosts["web03"]["detail"].startswith("the link was lost during the switch, and then: ssh: 127.0.0.1 port ")
    off.start()
    report_is_what_a_probe_finds(admin, report)
    for host in (killed, off):
        assert (generation(host), generation(host, ALICE)) == ("system-2-link", "profile-1-link")
    assert generation(unlinked, ALICE) == "profile-2-link"
    found = {host["host"]: host["state"] for host in admin.json("status")["hosts"]}
    assert found == {"web01": "ok", "web02": "behind", "web03": "behind"}

    report = admin.json("deploy", "--hosts", "web*", "--yes")
    assert states(report) == {"web01": "unchanged", "web02": "confirmed", "web03": "confirmed"}
    for host in admin.fleet:
        entries = [json.loads(line) for line in (host.root / "nix/var/reconciler/history").read_text().splitlines()[1:]]
        assert [(entry["profile"], entry["message"]) for entry in entries].count(("system", "cut off")) == 1
        assert not (host.root / "nix/var/reconciler/switching").exists()


def test_a_switch_that_fails_half_way_is_undone_and_one_that_cannot_be_is_told_as_it_is(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    undone, stuck = admin.fleet
    must(stuck, "mount -t tmpfs -o size=64m,mode=755 none /nix")
    admin.want({"packages": ["greet@1.0"], "users": {"alice": {"packages": ["tally"]}}})
    admin.run("deploy", "--hosts", "web*", "--yes")
    before = undone.run("ls -l /nix/var/nix/profiles /run/current-system").stdout
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally", "words"]}}})
    built(admin)
    with under_way(admin, "deploy", "--hosts", "web*", "--yes", "--json") as process:
        with profile_locked(undone), profile_locked(stuck):
            wait_until(lambda: all(half_switched(host) for host in admin.fleet))
            # One profile cannot be changed, and the other can be put back; or nothing can be made any more at all.
            must(undone, f"mkdir /{ALICE}-2-link")
            must(stuck, "mount -o remount,nr_inodes=$(df --output=iused /nix | tail -1 | tr -d ' ') /nix")
        report = json.loads(finished(process, 6)[0])
    hosts = {host["host"]: host for host in report["hosts"]}
    assert (hosts["web01"]["state"], hosts["web01"]["partial"]) == ("failed", False)
    assert hosts["web01"]["detail"] == f"/{ALICE}-2-link is not a link"
    assert hosts["web01"]["hint"] == "move it away: it blocks the next number"
    assert undone.run("ls -l /nix/var/nix/profiles /run/current-system").stdout == before
    assert (hosts["web02"]["state"], hosts["web02"]["probed"]) == ("unknown", True)
    assert re.fullmatch(
        r"as alice: .*: No space left on device; and it could not be undone: .*No space left on device.*;"
        r" system: a new probe found it half done: the profile is the new one, what runs is not;"
        r" alice: a new probe found it not done",
        hosts["web02"]["detail"],
    )
    report_is_what_a_probe_finds(admin, report)
    found = {host["host"]: host for host in admin.json("status")["hosts"]}
    assert (found["web01"]["state"], found["web02"]["state"]) == ("behind", "drift")
    assert {greeting(host) for host in admin.fleet} == {"hello from words 1.0"}

    must(undone, f"rmdir /{ALICE}-2-link")
    must(stuck, "mount -o remount,nr_inodes=100k /nix")
    assert states(admin.json("deploy", "--hosts", "web*", "--yes")) == {"web01": "confirmed", "web02": "confirmed"}
    assert admin.run("status", "--exit-code")
    stuck.nix("nix-store", "--verify", "--check-contents")


# --- moved on ---------------------------------------------------------------------------------------------------------


def test_a_host_that_changed_between_plan_and_switch_is_refused_and_the_change_is_shown(
    operator: MakeOperator, tmp_path: Path
) -> None:
    admin = first(operator, "web01", "web02")
    other = colleague(admin, tmp_path)
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally"]}}})
    deploy = [sys.executable, "-m", "reconciler", "deploy", "--hosts", "web*"]
    with Terminal(deploy, admin.environment) as terminal:
        terminal.expect("Switch 2 hosts?")
        terminal.interrupt()
        assert terminal.end(status=130).endswith("error: interrupted\n")
    with Terminal(deploy, admin.environment) as terminal:
        terminal.expect("Switch 2 hosts?")
        admin.want({"packages": ["tally"], "users": {"alice": {"packages": ["tally"]}}})
        hotfix = other.json("deploy", "--hosts", "web02", "-m", "hotfix")
        terminal.send("yes")
        shown = terminal.end(status=7)
    assert re.search(
        rf"web02  REFUSED before the switch: web02 has changed since the plan: system was 1, is 2 "
        rf"\(\S+, \d+ s ago, {hotfix['deployment']} 'hotfix'\)",
        shown,
    ), shown
    assert f"reconciler history {hotfix['deployment']}; then deploy again to see a fresh plan" in shown
    first_host, second = admin.fleet
    assert greeting(first_host) == "hello from words 2.0"
    assert second.run("/run/current-system/sw/bin/tally").stdout == "tally\n"


# --- a full disk ------------------------------------------------------------------------------------------------------


def leftovers(host: TestHost) -> list[str]:
    """Files of a host's store that are registered nowhere, and temporary files of ours."""
    there = set(host.run("ls -A /nix/store").stdout.split()) - {".links"}
    valid = host.nix("nix-store", "--query", "--requisites", *_all_valid(host)).stdout if _all_valid(host) else ""
    temporary = host.run("find /nix/var /etc -name '.*tmp*'").stdout.split()
    return sorted(there - {os.path.basename(path) for path in valid.split()}) + temporary


def _all_valid(host: TestHost) -> list[str]:
    return host.nix("nix", "path-info", "--all").stdout.split()


def test_a_full_disk_fails_one_host_before_the_switch_and_leaves_nothing_behind(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    (full, _) = admin.fleet
    admin.want({"packages": ["greet@2.0", "slow"]})
    built(admin)
    must(full, "mount -t tmpfs -o size=40m,mode=755 none /nix")
    report = admin.json("deploy", "--hosts", "web*", "--yes", status=3)
    assert states(report) == {"web01": "failed", "web02": "confirmed"}
    assert re.fullmatch(
        r"(web01: )?\d+\.\d MiB are to be copied, and \d+\.\d MiB are free", report["hosts"][0]["detail"]
    )
    assert report["hosts"][0]["hint"] == "make room on the file system of /nix"

    must(full, "mount -o remount,size=180m /nix")
    with under_way(admin, "deploy", "--hosts", "web*", "--yes", "--json") as process:
        wait_until(lambda: any(inside(full).glob("nix/store/*-slow-1.0/share/zeros")))
        process.send_signal(signal.SIGSTOP)  # what is on its way arrives; the rest waits until there is no room
        full.run("head -c 180m /dev/zero >/nix/filler")
        process.send_signal(signal.SIGCONT)
        report = json.loads(finished(process, 3)[0])
    assert states(report) == {"web01": "failed", "web02": "unchanged"}
    assert re.fullmatch(r"/nix/store/\S+-slow-1.0: No space left on device", report["hosts"][0]["detail"])
    assert report["hosts"][0]["hint"] == "the disk is full, or has no inodes left"
    assert full.run("ls /run/current-system").returncode != 0
    full.run("rm /nix/filler")
    assert leftovers(full) == []
    full.nix("nix-store", "--verify", "--check-contents")

    report = admin.json("deploy", "--hosts", "web*", "--yes")
    assert states(report) == {"web01": "confirmed", "web02": "unchanged"}
    assert {greeting(host) for host in admin.fleet} == {"hello from words 2.0"}
    full.nix("nix-store", "--verify", "--check-contents")


# --- rollbacks --------------------------------------------------------------------------------------------------------


def test_a_rollback_refuses_the_host_that_has_changed_since_and_puts_back_the_others(
    operator: MakeOperator, tmp_path: Path
) -> None:
    admin = first(operator, "web01", "web02", "web03")
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally", "words"]}}})
    upgrade = admin.json("deploy", "--hosts", "web*", "--yes", "-m", "words 2")["deployment"]
    changed, outside, good = admin.fleet
    admin.want({"packages": ["tally"], "users": {"alice": {"packages": ["tally", "words"]}}})
    hotfix = colleague(admin, tmp_path).json("deploy", "--hosts", "web01", "-m", "hotfix")["deployment"]
    outside.nix("nix-env", "-e", "tally", "-p", f"/{ALICE}")
    before = {host.name: (generation(host), generation(host, ALICE)) for host in (changed, outside)}

    report = admin.json("rollback", "--deployment", upgrade, "--yes", status=7)
    assert states(report) == {"web01": "refused", "web02": "refused", "web03": "confirmed"}
    details = {host["host"]: (host["detail"], host["hint"]) for host in report["hosts"]}
    assert re.fullmatch(
        rf"web01 has changed since {upgrade}: system was left at 2, is 3 \(\S+, {hotfix} 'hotfix'\)",
        details["web01"][0],
    )
    assert details["web02"][0] == f"web02 has changed since {upgrade}: alice was left at 2, is 3 (changed from outside)"
    assert "rollback --hosts HOST --to N" in details["web02"][1]
    assert before == {host.name: (generation(host), generation(host, ALICE)) for host in (changed, outside)}
    assert (generation(good), generation(good, ALICE)) == ("system-1-link", "profile-1-link")
    report_is_what_a_probe_finds(admin, report)


def test_rollbacks_go_to_a_number_undo_a_rollback_and_work_from_another_controller(
    operator: MakeOperator, tmp_path: Path
) -> None:
    admin = first(operator, "web01", "web02")
    other = colleague(admin, tmp_path)
    (host, twin) = admin.fleet
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally", "words"]}}})
    second = admin.json("deploy", "--hosts", "web*", "--yes", "-m", "words 2")["deployment"]
    admin.want({"packages": ["tally"], "users": {"alice": {"packages": ["tally", "words"]}}})
    admin.run("deploy", "--hosts", "web*", "--yes")

    # To a number: the system's alone, unless a user is named.
    admin.run("rollback", "--hosts", "web01", "--to", "1", "--yes")
    assert (generation(host), generation(host, ALICE)) == ("system-1-link", "profile-2-link")
    admin.run("rollback", "--hosts", "web01", "--to", "1", "--users", "alice", "--yes")
    assert (generation(host), generation(host, ALICE)) == ("system-1-link", "profile-1-link")
    (failed,) = admin.json("rollback", "--hosts", "web01", "--to", "9", "--yes", status=3)["hosts"]
    assert "system has no generation 9" in failed["detail"]
    assert failed["hint"] == "reconciler generations --hosts web01"
    assert generation(twin) == "system-3-link"

    # The undoing of an undoing, by its id.
    undone = admin.json("rollback", "--hosts", "web02", "--yes")["deployment"]
    assert generation(twin) == "system-2-link"
    report = admin.json("rollback", "--deployment", undone, "--yes")
    assert states(report) == {"web02": "confirmed"}
    assert generation(twin) == "system-3-link"
    assert states(admin.json("deploy", "--hosts", "web02")) == {"web02": "unchanged"}

    # Another controller knows of none of these: the hosts do, by the whole id.
    admin.run("rollback", "--hosts", "web02", "--to", "2", "--yes")
    unknown = other.run("rollback", "--deployment", second.rsplit("-", 1)[1], "--yes", status=2)
    assert "error: no deployment" in unknown.stderr
    checked = other.run("rollback", "--deployment", second, "--check").stdout
    assert f"{second}   'words 2'" in checked
    report = other.json("rollback", "--deployment", second, "--yes")
    assert states(report) == {"web01": "unchanged", "web02": "confirmed"}
    assert report["undoes"] == second
    assert {(generation(each), generation(each, ALICE)) for each in admin.fleet} == {
        ("system-1-link", "profile-1-link")
    }
    assert {greeting(each) for each in admin.fleet} == {"hello from words 1.0"}
    absent = other.run("rollback", "--deployment", "200101-0000-a2", "--yes", status=2)
    assert "error: no host of this inventory knows of a deployment 200101-0000-a2" in absent.stderr
