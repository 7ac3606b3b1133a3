"""Looking at a host: the truth, and nothing left behind."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.agent import lock, nix, observe
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import Observation, ObserveRequest, ProfilesRequest
from reconciler.core.errors import ReconcilerError
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.agent.hosts import begin, everything, make_host, switch, to
from tests.core.profile.homes import link, own
from tests.core.profile.packages import make_environment, make_toplevel, package
from tests.oracle import RealNix


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = make_host(tmp_path / "host")
    yield made
    make_writable(Path(made.root))


def look(host: Host, *users: str, paths: tuple[str, ...] = ()) -> Observation:
    return observe.observe(host, ObserveRequest(users, paths))


def test_an_unmanaged_host_is_told_as_such_and_left_as_it_is(host: Host) -> None:
    before = everything(host)
    missing = "/nix/store/" + "a" * 32 + "-a"
    seen = look(host, "alice", "nobody-at-all", paths=(missing,))
    assert everything(host) == before
    assert (seen.managed, seen.running, seen.booted, seen.lock, seen.valid) == (False, "", "", None, ())
    system, alice, nobody = seen.profiles
    assert (system.profile, system.link, system.current) == ("system", "/nix/var/nix/profiles/system", None)
    assert (system.highest, system.highest_path, system.last, system.undone) == (0, "", None, ())
    assert (alice.link, alice.current, alice.problem) == ("/nix/var/nix/profiles/per-user/alice/profile", None, "")
    assert nobody.problem == "there is no account 'nobody-at-all'"


def test_what_the_machine_is_is_told(host: Host) -> None:
    Path(host.path("/etc/machine-id")).write_text("0123456789abcdef\n")
    Path(host.path("/etc/os-release")).write_text('ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n')
    seen = look(host)
    assert (seen.machine_id, seen.os, seen.uid) == ("0123456789abcdef", "Debian 12", os.geteuid())
    assert seen.hostname == os.uname().nodename
    assert seen.system == f"{os.uname().machine}-linux"
    assert seen.python == ".".join(map(str, sys.version_info[:3]))
    assert len(seen.boot_id) == 36
    assert 0 < seen.store_free <= seen.store_total


RELEASES = {
    'ID="rhel"\nNAME="Red Hat Enterprise Linux"\nVERSION_ID="9.4"\n': "RHEL 9.4",
    "ID=ubuntu\nNAME='Ubuntu'\nVERSION_ID='22.04'\n": "Ubuntu 22.04",
    "ID=arch\nNAME=Arch Linux\n": "Arch Linux",
    "": "Linux",
}


@pytest.mark.parametrize("text", RELEASES)
def test_the_distribution_has_its_short_name(text: str, host: Host) -> None:
    Path(host.path("/etc/os-release")).write_text(text)
    assert look(host).os == RELEASES[text]


def test_systemd_counts_where_it_runs(host: Host) -> None:
    library = Path(host.path("/usr/lib/systemd"))
    library.mkdir(parents=True)
    (library / "libsystemd-shared-252.so").touch()
    assert look(host).systemd == 0
    os.makedirs(host.path("/run/systemd/system"))
    assert look(host).systemd == 252


def test_a_managed_host_is_seen_whole(host: Host) -> None:
    begin(host)
    with Store.open(host.root) as store:
        a, b = package(store, "a-1.0"), package(store, "b-1.0")
        system, alice = make_toplevel(store, a, b), make_environment(store, b)
    switch(host, to("system", system), to("user/alice", alice))
    unknown = "/nix/store/" + "a" * 32 + "-a"
    seen = look(host, paths=(str(a), unknown))
    assert (seen.managed, seen.running) == (True, str(system))
    assert seen.valid == (str(a),)
    assert [state.profile for state in seen.profiles] == ["system", "user/alice"], "the history knows alice"
    first, second = seen.profiles
    assert first.packages == (str(a), str(b))
    assert second.packages == (str(b),)
    assert first.current is not None
    assert (first.current.number, first.highest, first.highest_path) == (1, 1, str(system))
    assert [state.complete for state in seen.profiles] == [True, True]
    assert [state.changed_outside for state in seen.profiles] == [False, False]
    assert first.last is not None
    assert first.last.after == first.current
    assert seen.problems == ()
    RealNix(host.root).verify()


def test_a_profile_asked_for_twice_is_told_once(host: Host) -> None:
    assert [state.profile for state in look(host, "alice", "alice").profiles] == ["system", "user/alice"]


def test_missing_files_make_a_profile_incomplete(host: Host) -> None:
    begin(host)
    with Store.open(host.root) as store:
        a = package(store, "a-1.0")
        environment = make_environment(store, a)
    switch(host, to("user/alice", environment))
    os.chmod(host.path(str(a)), 0o755)  # for an ordinary user, who may move only what may be written to
    os.rename(host.path(str(a)), host.path("/nix/gone"))
    state = look(host, "alice").profile("user/alice")
    assert state is not None
    assert (state.complete, state.problem) == (False, "")


def test_an_unregistered_path_makes_a_profile_incomplete(host: Host) -> None:
    begin(host)
    with Store.open(host.root) as store:
        environment = make_environment(store)
    switch(host, to("user/alice", environment))
    with sqlite3.connect(host.database) as database:
        database.execute("delete from DerivationOutputs")
        database.execute("delete from Refs")
        database.execute("delete from ValidPaths")
    database.close()
    state = look(host, "alice").profile("user/alice")
    assert state is not None
    assert not state.complete


@pytest.mark.nix
def test_a_rollback_by_nix_is_seen_as_a_change_from_outside(host: Host) -> None:
    begin(host)
    with Store.open(host.root) as store:
        first, second = make_toplevel(store), make_toplevel(store, package(store, "a-1.0"))
    (made,) = switch(host, to("system", first))
    switch(host, to("system", second, made.after))
    real = RealNix(host.root)
    listed = real.output("nix-env", "-p", host.system_profile, "--list-generations").splitlines()
    assert [line.split()[0] for line in listed] == ["1", "2"]
    real.run("nix-env", "-p", host.system_profile, "--rollback")
    state = look(host).profile("system")
    assert state is not None
    assert state.changed_outside
    assert state.current == made.after
    assert look(host).running == str(second)


@pytest.mark.nix
def test_a_profile_of_nixs_own_is_seen_with_its_packages(host: Host) -> None:
    with Store.open(host.root, create=True) as store:
        a = package(store, "a-1.0")
    state = Path(host.path("/home/alice/.local/state/nix/profiles"))
    state.mkdir(parents=True)
    real = RealNix(host.root, sandbox=True)
    real.run("nix-env", "-p", state / "profile", "-ir", str(a))
    for path in (*reversed(state.parents[:3]), state, *state.iterdir()):
        own(path, "alice")
    link(Path(host.path("/home/alice/.nix-profile")), ".local/state/nix/profiles/profile", "alice")
    seen = look(host, "alice")
    found = seen.profile("user/alice")
    assert found is not None
    assert (found.packages, found.complete, found.last, found.changed_outside) == ((str(a),), True, None, False)
    assert not seen.managed
    assert not os.path.exists(host.own_state)


def test_a_lock_that_another_holds_is_seen(host: Host) -> None:
    other = Host(host.root)
    begin(other)
    seen = look(host).lock
    assert seen is not None
    assert seen.deployment == "260312-1412-k7"
    lock.release(other)
    assert look(host).lock is None


# --- problems ---------------------------------------------------------------------------------------------------------


def test_a_store_behind_a_link_is_a_problem(host: Host) -> None:
    Path(host.path("/data")).mkdir()
    Path(host.path("/nix")).symlink_to("data")
    assert "/nix is a link: a store cannot lie behind one" in look(host).problems


def test_a_newer_history_is_a_problem_and_no_failure(host: Host) -> None:
    begin(host)
    Path(host.history).write_text("reconciler-history 9\n")
    assert any("has format 9" in problem for problem in look(host).problems)


def test_a_database_that_cannot_be_read_is_a_problem_and_no_failure(host: Host) -> None:
    begin(host)
    Path(host.path("/nix/var/nix/db/schema")).write_text("11")
    seen = look(host, paths=("/nix/store/" + "a" * 32 + "-a",))
    assert seen.valid == ()
    assert any("schema" in problem for problem in seen.problems)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_a_read_only_file_system_is_a_problem(host: Host) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from reconciler.core.agent import observe
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import ObserveRequest
print(*observe.observe(Host(sys.argv[1]), ObserveRequest()).problems)
"""
    os.makedirs(host.path("/nix/var/nix"))
    project = str(Path(__file__).parents[3])
    script = 'mount --bind "$1/nix" "$1/nix" && mount -o remount,bind,ro "$1/nix" && exec "$0" -c "$2" "$1" "$3"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script, sys.executable, host.root, code, project],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "/nix/var/nix is on a file system that is mounted read-only" in done.stdout


def test_what_needs_no_database_loads_none(tmp_path: Path) -> None:
    code = """
import sys
from reconciler.core.agent import observe
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import ObserveRequest
observe.observe(Host(sys.argv[1]), ObserveRequest())
print(sorted({"sqlite3", "ctypes", "subprocess", "pwd"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- the host's own Nix -----------------------------------------------------------------------------------------------


def test_a_nix_in_the_store_has_its_version_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nix, "_program", lambda host: "/nix/store/" + "a" * 32 + "-nix-2.34.8/bin/nix-store")
    assert nix.version(Host(str(tmp_path))) == "2.34.8"


@pytest.mark.nix
def test_a_distributions_nix_is_asked_once_and_the_answer_kept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    program = os.path.realpath("/usr/bin/nix-store")
    if not os.path.exists(program):
        pytest.skip("no Nix of the distribution's")
    monkeypatch.setattr(nix, "_program", lambda host: program)
    version = nix.version(host)
    assert version.startswith("2.")
    assert not os.path.exists(host.own_state)
    begin(host)
    asked: list[str] = []
    monkeypatch.setattr(nix, "_ask", asked.append)
    assert nix.version(host) == version
    assert asked == []


def test_a_host_without_nix_has_no_version(host: Host) -> None:
    assert look(host).nix == ""


# --- generations ------------------------------------------------------------------------------------------------------


def test_generations_are_told_of_the_profiles_that_there_are(host: Host) -> None:
    assert observe.generations(host, ProfilesRequest()).profiles == {"system": ()}
    begin(host)
    with Store.open(host.root) as store:
        first, second = make_environment(store), make_environment(store, package(store, "a-1.0"))
    (made,) = switch(host, to("user/alice", first))
    switch(host, to("user/alice", second, made.after))
    told = observe.generations(host, ProfilesRequest()).profiles
    assert list(told) == ["system", "user/alice"]
    assert [(one.number, one.path, one.current) for one in told["user/alice"]] == [
        (1, str(first), False),
        (2, str(second), True),
    ]
    assert observe.generations(host, ProfilesRequest(("user/bob",))).profiles == {"user/bob": ()}


def test_generations_of_somebody_who_is_not_there_are_an_error_when_asked_for(host: Host) -> None:
    with pytest.raises(ReconcilerError, match="nobody-at-all: there is no account"):
        observe.generations(host, ProfilesRequest(("user/nobody-at-all",)))
