"""Logins, sudo, host keys and interpreters on real sshd hosts: what works, and what is refused beforehand."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.lab import keys
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.e2e.terminal import Terminal
from tests.hosts.host import TestHost
from tests.hosts.image import OPS_PASSWORD

pytestmark = [pytest.mark.root, pytest.mark.nix]

DESIRED = {"packages": ["greet@1.0"], "users": {"alice": {"packages": ["tally"]}}}
BY_SUDO = {"ansible_user": "deploy", "ansible_become": True}


def variables(admin: Operator, values: dict[str, object], scope: str = "group_vars/all") -> None:
    """Ansible's variables of a group or host, beside what is desired."""
    file = admin.fleet.directory / f"{scope}.yml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**values, "desired": DESIRED}))


def terminal(admin: Operator, *words: str) -> Terminal:
    return Terminal([sys.executable, "-m", "reconciler", *words], admin.environment, admin.directory)


def holds_what_is_desired(host: TestHost) -> bool:
    runs = host.run("/run/current-system/sw/bin/greet").stdout == "hello from words 1.0\n"
    return runs and host.run("~/.nix-profile/bin/tally", "alice").stdout == "tally\n"


def untouched(host: TestHost) -> bool:
    return not any(host.run(f"ls -A {path}").stdout for path in ("/nix", "/etc/profile.d", "/etc/tmpfiles.d"))


# --- sudo -------------------------------------------------------------------------------------------------------------


def test_a_login_user_with_passwordless_sudo_deploys_and_rolls_back(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    variables(admin, BY_SUDO)
    admin.run("deploy", "--hosts", "web*", "--yes")
    for host in admin.fleet:
        assert holds_what_is_desired(host)
        for path in ("nix/store", "nix/var/nix/db", "nix/var/reconciler/history", "etc/profile.d/reconciler.sh"):
            assert (host.root / path).stat().st_uid == 0
        assert not [line for line in host.processes().values() if "-I -S" in line], "nothing stays running"
    assert "root by sudo" in admin.run("doctor").stdout
    admin.run("rollback", "--hosts", "web*", "--yes")
    assert not os.path.lexists(admin.fleet[0].root / "nix/var/nix/profiles/system")


@contextmanager
def watched(host: TestHost) -> Iterator[set[str]]:
    """Every command line and environment of the host's processes while the block lasts."""
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for pid in host.processes():
                for file in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        seen.add(Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace"))
            time.sleep(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def files_with(text: str, *places: Path) -> list[Path]:
    """The files below `places` that hold `text`."""
    found = []
    for place in places:
        for file in place.rglob("*"):
            with contextlib.suppress(OSError):
                if file.is_file() and not file.is_symlink() and text.encode() in file.read_bytes():
                    found.append(file)
    return found


def test_sudos_password_is_asked_for_once_and_is_seen_nowhere(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    variables(admin, {"ansible_user": "ops", "ansible_become": True})
    refused = admin.run("doctor", status=3).stdout
    assert refused.count("NOT FIT   sudo asks for a password") == 2
    assert "add -K" in refused
    failed = admin.run("deploy", "--hosts", "web*", "--yes", status=3).stdout
    assert "sudo asks for a password" in failed
    assert "would have asked: " in admin.run("deploy", "--hosts", "web*", "--yes", "-K", status=2).stderr

    with terminal(admin, "deploy", "--hosts", "web*", "-K") as wrong:
        wrong.expect("sudo")
        wrong.expect("assword")
        wrong.send("not it")
        shown = wrong.end(status=3)
    assert shown.count("sudo refused the password") >= 2
    assert "not it" not in shown
    assert all(untouched(host) for host in admin.fleet)

    with watched(admin.fleet[0]) as seen, terminal(admin, "deploy", "--hosts", "web*", "-K") as right:
        right.expect("assword")
        right.send(OPS_PASSWORD)
        asked = right.expect("Switch 2 hosts?")
        right.send("yes")
        shown = right.end()
    assert asked.lower().count("password") <= 1
    assert all(holds_what_is_desired(host) for host in admin.fleet)
    assert any("sudo" in line for line in seen), "the watch would have seen it"
    assert not [line for line in seen if OPS_PASSWORD in line]
    assert OPS_PASSWORD not in shown
    places = [host.root / place for host in admin.fleet for place in ("nix/var", "etc", "home", "root", "var", "tmp")]
    assert files_with(OPS_PASSWORD, admin.directory / "home", admin.fleet.directory / "logs", *places) == []


def test_a_login_user_who_cannot_become_root_is_refused_before_anything_changes(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    variables(admin, {"ansible_user": "alice"}, "host_vars/web01")
    variables(admin, {"ansible_user": "alice", "ansible_become": True}, "host_vars/web02")
    report = admin.json("deploy", "--hosts", "web*", "--yes", status=3)
    assert [host["state"] for host in report["hosts"]] == ["failed", "failed"]
    without, with_sudo = (host["detail"] for host in report["hosts"])
    assert without == "not root (uid 1001), and no store of one's own: /nix belongs to another user"
    assert with_sudo == "sudo asks for a password"
    assert all(untouched(host) for host in admin.fleet)
    shown = admin.run("doctor", status=3).stdout
    assert "ansible_become: true, or log in as root" in shown
    with terminal(admin, "doctor", "--hosts", "web02", "-K") as asked:
        asked.expect("assword")
        asked.send("whatever")
        assert "NOT FIT   sudo refused the password" in asked.end(status=3)


# --- host keys --------------------------------------------------------------------------------------------------------


def test_an_unknown_host_key_is_refused_until_it_is_trusted_and_a_changed_one_stays_refused(
    operator: MakeOperator,
) -> None:
    admin = operator(["web01", "web02"])
    admin.want(DESIRED)
    known = admin.fleet.directory / "known_hosts"
    first, second = known.read_text().splitlines()
    known.write_text(second + "\n")
    shown = admin.run("doctor", status=5).stdout
    assert "web01   NOT FIT   host key unknown" in shown
    assert "reconciler trust web01" in shown
    assert "web02   ready" in shown
    report = admin.json("deploy", "--hosts", "web01", "--yes", status=5)["hosts"][0]
    assert (report["state"], report["hint"]) == ("unreachable", "reconciler trust web01")
    assert report["detail"].startswith("host key unknown: ssh-ed25519 SHA256:")
    assert untouched(admin.fleet["web01"])

    with terminal(admin, "trust", "web01") as declined:
        declined.expect(" / no]")
        declined.send("no")
        declined.end()
    assert known.read_text() == second + "\n"
    with terminal(admin, "trust", "web01") as agreed:
        fingerprint = report["detail"].split()[-1]
        agreed.expect(fingerprint)
        agreed.expect(" / no]")
        agreed.send("yes")
        agreed.expect("enrolled web01")
        agreed.end()
    assert sorted(line.split()[:3] for line in known.read_text().splitlines()) == sorted(
        line.split()[:3] for line in (first, second)
    )
    assert "web01   ready" in admin.run("doctor").stdout
    admin.run("deploy", "--hosts", "web01")
    assert holds_what_is_desired(admin.fleet["web01"])

    other = keys.generate().public.split()[1]
    known.write_text(known.read_text().replace(first.split()[2], other))
    report = admin.json("deploy", "--hosts", "web01", status=5)["hosts"][0]
    assert report["detail"].startswith("host key changed: the host shows ssh-ed25519 SHA256:")
    assert "reconciler trust --replace web01" in report["hint"]
    refused = admin.run("trust", "web01", "--yes", status=7)
    assert "error: the key of web01 has changed; nothing was enrolled" in refused.stderr
    assert other in known.read_text()
    admin.run("trust", "--replace", "web01", "--yes")
    assert "web01   ready" in admin.run("doctor").stdout


# --- the way there ----------------------------------------------------------------------------------------------------


def test_a_deploy_goes_through_a_jump_host(operator: MakeOperator) -> None:
    admin = operator(["web01", "gate"])
    variables(admin, BY_SUDO)
    config = admin.fleet.ssh_config
    config.write_text(config.read_text().replace("Host web01\n", "Host web01\n  ProxyJump deploy@gate\n"))
    admin.run("deploy", "--hosts", "web01")
    host, gate = admin.fleet
    assert holds_what_is_desired(host)
    assert untouched(gate)
    # In the inventory, as Ansible spells it; the host's own key is checked behind the jump too.
    config.write_text(config.read_text().replace("  ProxyJump deploy@gate\n", ""))
    inventory = admin.fleet.inventory
    inventory.write_text(inventory.read_text().replace("ssh_config'\"", "ssh_config' -J deploy@gate\""))
    assert "web01   ready" in admin.run("doctor", "--hosts", "web01").stdout
    gate.stop()
    (report,) = admin.json("deploy", "--hosts", "web01", status=5)["hosts"]
    assert report["detail"].startswith("jump host gate: ssh: 127.0.0.1 port ")
    gate.start()


# --- Python -----------------------------------------------------------------------------------------------------------


def test_a_missing_python_is_told_with_a_remedy(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02", "web03"])
    admin.want(DESIRED)
    variables(admin, {"ansible_python_interpreter": "/usr/bin/python3.99"}, "host_vars/web01")
    variables(admin, {"ansible_python_interpreter": "/usr/bin/cat"}, "host_vars/web02")
    found = {host["host"]: host for host in admin.json("doctor", status=3)["hosts"]}
    assert found["web01"]["problem"].startswith("there is no /usr/bin/python3.99: needs Python 3.9")
    assert found["web01"]["remedy"].endswith("install it, or name one: ansible_python_interpreter: /usr/bin/python3.9")
    assert found["web02"]["problem"].startswith("the agent did not start (exit status 1): /usr/bin/cat: ")
    assert found["web03"]["ready"]
    report = admin.json("deploy", "--hosts", "web*", "--yes", status=3)
    assert [host["state"] for host in report["hosts"]] == ["failed", "failed", "confirmed"]
    assert untouched(admin.fleet["web01"])
