"""gc, verify, repair and optimise on hosts: nothing that is needed goes, what is broken is found and put right."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.core import fs
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.e2e.test_profiles import PROFILES, generations
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

ONE = {"packages": ["greet@1.0"], "users": {"alice": {"packages": ["tally"]}}}
TWO = {"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally"]}}}
THREE = {"packages": ["tally"], "users": {"alice": {"packages": ["greet@1.0"]}}}


def deploy(admin: Operator, desired: Mapping[str, Any], hosts: str = "web*") -> None:
    admin.want(desired)
    admin.run("deploy", "--hosts", hosts, "--yes")


def names(host: TestHost) -> set[str]:
    return {name.partition("-")[2] for name in os.listdir(host.root / "nix/store") if name != ".links"}


def find(host_or_store: Path, name: str) -> Path:
    (found,) = [path for path in (host_or_store / "nix/store").iterdir() if path.name.endswith(f"-{name}")]
    return found


def spoil(path: Path, text: str = "rotten\n") -> None:
    """Change a file of the store as a bad disk does: its length and times stay."""
    os.chmod(path, 0o644)
    data = path.read_bytes()
    path.write_bytes((text.encode() * len(data))[: len(data)])
    os.chmod(path, 0o444)
    os.utime(path, (1, 1))


def sources(host: dict[str, Any]) -> dict[str, str]:
    """What was repaired on a host, and from where."""
    return {Path(one["path"]).name.partition("-")[2]: one["source"] for one in host["repaired"]}


@contextlib.contextmanager
def held(host: TestHost) -> Iterator[None]:
    """Somebody deploys to the host meanwhile."""
    owner = {"deployment": "260312-1412-k9", "who": "oncall", "pid": 7, "since": 0.0}
    with (host.root / "nix/var/reconciler/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"reconciler-lock 1\n{json.dumps(owner)}\n")
        file.flush()
        yield


def test_generations_and_what_only_they_kept_go_and_a_rollback_is_still_exact(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    for desired in (ONE, TWO, ONE, THREE):
        deploy(admin, desired)
    # A process from generation 2, which has its program open.
    host.run(f"exec 3< {PROFILES}/system-2-link/sw/bin/greet; setsid sleep 600 >/dev/null 2>&1 &")

    shown = admin.json("gc", "--hosts", "web01", "--keep-generations", "1", "--check")["hosts"][0]
    assert [[one["number"] for one in each["goes"]] for each in shown["profiles"]] == [[1, 2], []]
    assert generations(host, f"{PROFILES}/system") == [1, 2, 3, 4]
    refused = admin.run("gc", "--hosts", "web01", "--keep-generations", "1", status=2).stderr
    assert "would have asked: Delete 2 generations and what nothing keeps on 1 host?" in refused
    assert "system   2 generations go: 1 (just now), 2 (just now); 2 kept" in refused

    with held(host):
        locked = admin.json("gc", "--hosts", "web01", "--keep-generations", "1", "--yes", status=7)["hosts"][0]
    assert "web01 is locked: oncall deploys 260312-1412-k9 since" in locked["error"]
    assert generations(host, f"{PROFILES}/system") == [1, 2, 3, 4]

    done = admin.json("gc", "--hosts", "web01", "--keep-generations", "1", "--yes")["hosts"][0]
    assert (done["state"], set(done["deleted"])) == ("done", set(shown["deleted"]))
    assert done["freed"] == shown["freed"] > 0
    assert generations(host, f"{PROFILES}/system") == [3, 4]
    # What the process has open stays with all that it refers to.
    assert {"greet-2.0", "words-2.0"} <= names(host)
    assert not [name for name in names(host) if name.startswith("reconciler-system") and name in done["deleted"]]
    assert " linked, " in admin.run("optimise", "--hosts", "web01").stdout

    admin.run("rollback", "--hosts", "web01", "--yes")
    assert host.run("bash -lc 'greet; tally'", "alice").stdout == "hello from words 1.0\ntally\n"
    assert host.nix("nix-collect-garbage").returncode == 0
    assert host.run("bash -lc 'greet; tally'", "alice").stdout == "hello from words 1.0\ntally\n"


def test_generations_that_are_named_go_and_nix_lists_the_others(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    for desired in (ONE, TWO, ONE, THREE, TWO):
        deploy(admin, desired)
    one, two = admin.fleet["web01"], admin.fleet["web02"]
    gc = ("gc", "--hosts", "web*", "--system", "--delete-generations")

    shown = admin.run(*gc, "2,3,9", "--check")
    assert shown.stdout.count("  system   2 generations go: 2 (just now), 3 (just now); 3 kept\n") == 2
    assert shown.stdout.count("  system   there is no generation 9\n") == 2
    assert "would have asked: Delete 4 generations and what nothing keeps on 2 hosts?" in (
        admin.run(*gc, "2,3,9", status=2).stderr
    )
    assert generations(one, f"{PROFILES}/system") == [1, 2, 3, 4, 5]
    done = admin.json(*gc, "2,3,9", "--yes")["hosts"]
    assert [[each["number"] for each in host["profiles"][0]["goes"]] for host in done] == [[2, 3], [2, 3]]
    for host in (one, two):
        assert generations(host, f"{PROFILES}/system") == [1, 4, 5]
        assert generations(host, f"{PROFILES}/per-user/alice/profile") == [1, 2, 3]

    # What is the current one on a host is refused there, and goes elsewhere.
    admin.run("rollback", "--hosts", "web01", "--system", "--to", "4", "--yes")
    refused = admin.json(*gc, "4", "--yes", status=7)["hosts"]
    assert [host["state"] for host in refused] == ["failed", "done"]
    assert refused[0]["error"] == "system: generation 4 is the current one"
    assert (generations(one, f"{PROFILES}/system"), generations(two, f"{PROFILES}/system")) == ([1, 4, 5], [1, 5])

    wrong = admin.run("gc", "--hosts", "web*", "--users", "alcie", "--delete-generations", "old", status=2).stderr
    assert "--users 'alcie' matches no user of these hosts\nhint:  did you mean 'alice'?" in wrong
    # Nix agrees with what is left of both forms, and collects no more.
    told = admin.run("gc", "--hosts", "web02", "--delete-generations", "old", "--yes").stdout
    assert "1 generation is gone: 1 (just now); 1 kept" in told
    assert two.nix("nix-env", "-p", f"{PROFILES}/system", "--delete-generations", "old").returncode == 0
    assert two.nix("nix-store", "--gc").stdout.startswith("0 store paths deleted")
    assert two.run("bash -lc 'greet; tally'", "alice").stdout == "hello from words 2.0\ntally\n"


def test_a_gc_and_a_deploy_at_the_same_time_do_each_other_no_harm(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    deploy(admin, ONE)
    deploy(admin, TWO)
    admin.want(THREE)
    gc = ("gc", "--hosts", "web01", "--keep-generations", "1", "--yes")
    running = [admin.popen(*words) for words in (("deploy", "--hosts", "web01"), gc, ("gc", "--here", "--yes"), gc)]
    ended = [(each.communicate(timeout=120), each.returncode) for each in running]
    assert {status for _, status in ended} <= {0, 7}, ended
    assert all("is locked: " in "".join(said) for said, status in ended if status == 7), ended
    admin.run("deploy", "--hosts", "web01")
    assert host.run("bash -lc 'greet; tally'", "alice").stdout == "hello from words 1.0\ntally\n"


def test_what_is_broken_is_found_and_repaired_from_wherever_it_is_right(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02", "web03"])
    deploy(admin, ONE, "web01,web02")
    admin.fleet["web03"].stop()
    public = admin.run("key", "generate", "test-1").stdout.strip()
    host = admin.fleet["web01"]
    words = find(host.root, "words-1.0") / "share/words"
    spoil(words)
    shutil.rmtree(find(host.root, "tally-1.0"))
    os.chmod(find(host.root, "greet-1.0") / "bin/greet", 0o700)

    told = admin.json("verify", "--hosts", "web*", status=5)["hosts"]
    found = {Path(one["path"]).name.partition("-")[2]: one["kind"] for one in told[0]["findings"]}
    assert found == {"words-1.0": "changed", "tally-1.0": "missing", "greet-1.0": "mode"}
    assert [(each["found"], each["state"]) for each in told] == [(3, "done"), (0, "done"), (0, "failed")]
    shallow = admin.run("verify", "--hosts", "web01", "--shallow", status=9).stdout
    assert "web01   1 FINDING" in shallow
    assert "next     reconciler repair --hosts web01" in shallow

    assert sources(admin.json("repair", "--hosts", "web01")["hosts"][0]) == {
        "words-1.0": "this controller's store",
        "tally-1.0": "this controller's store",
        "greet-1.0": "in place",
    }
    assert admin.run("verify", "--hosts", "web01").stdout.startswith("web01   ok")

    cache = f"file://{admin.directory}/cache"
    admin.run("cache", "push", "--to", cache, "--key", "test-1.secret", "--compression", "none", "greet@1.0")
    assert "to be freed" in admin.run("gc", "--here", "--check").stdout
    admin.run("gc", "--here", "--yes")
    # The script that runs every recipe is kept while any build on this machine, another test's say, has it open.
    left = {each.name.partition("-")[2] for each in (admin.store / "nix/store").iterdir() if each.name != ".links"}
    assert left <= {"recipe-build.sh"}
    spoil(words)
    assert sources(admin.json("repair", "--hosts", "web01")["hosts"][0]) == {"words-1.0": "host web02"}

    spoil(words)
    spoil(find(admin.fleet["web02"].root, "words-1.0") / "share/words")
    broken = admin.run("repair", "--hosts", "web01,web02", status=3).stdout
    assert broken.count("BROKEN") == 2
    assert "this controller's store: not there; the other hosts selected: not there" in broken
    repaired = admin.json("repair", "--hosts", "web01,web02", "--cache", cache, "--key", public)["hosts"]
    assert [sources(each) for each in repaired] == [{"words-1.0": f"cache {cache}"}] * 2
    assert host.run("bash -lc 'greet; tally'", "alice").stdout == "hello from words 1.0\ntally\n"


def test_a_deployment_waits_for_a_collection_of_nix_and_says_so(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01")
    # Nix's own tests hold a collection up in this way.
    host.run("mkfifo /root/pipe; (_NIX_TEST_GC_SYNC=/root/pipe nix-store --gc >/root/said 2>&1 &)")
    gc_lock = fs.FileLock(str(host.root / "nix/var/nix/gc.lock"))
    while gc_lock.acquire(exclusive=False, wait=False):
        gc_lock.release()
        time.sleep(0.05)
    admin.want({"packages": ["greet@2.0"]})
    with admin.popen("deploy", "--hosts", "web01") as process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if "web01: a garbage collection is at work there; waiting for its end" in line:
                break
        time.sleep(0.3)
        assert process.poll() is None
        host.run("echo > /root/pipe")
        rest = process.communicate(timeout=60)
    assert process.returncode == 0, (seen, rest)
    assert host.run("/run/current-system/sw/bin/greet").stdout == "hello from words 2.0\n"
    assert "store paths deleted" in (host.root / "root/said").read_text()
