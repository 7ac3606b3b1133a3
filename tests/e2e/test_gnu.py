"""inventories/gnu on real sshd hosts: programs from upstream's source, installed, removed, rolled back, returned to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.packages import downloads
from tests.e2e.operator import Operator
from tests.hosts.fixture import MakeFleet
from tests.hosts.host import Fleet, TestHost
from tests.packages import bare

pytestmark = [pytest.mark.root, pytest.mark.nix, pytest.mark.network]

INVENTORY = Path(__file__).parents[2] / "inventories/gnu"
ALICE = "nix/var/nix/profiles/per-user/alice/profile"
SYSTEM = "nix/var/nix/profiles/system"
HELLO = "Hello, world!\n"


Admin = Callable[..., Operator]


@pytest.fixture
def administrator(fleet: MakeFleet, tmp_path: Path) -> Admin:
    """Somebody with a copy of inventories/gnu, and hosts of its names where `lab up` would put them."""
    return lambda *names: administrator_of(fleet(list(names)), tmp_path)


@pytest.fixture
def admin(administrator: Admin) -> Operator:
    return administrator("gnu01", "gnu02")


def administrator_of(hosts: Fleet, tmp_path: Path) -> Operator:
    inventory = tmp_path / "gnu"
    shutil.copytree(INVENTORY, inventory, ignore=shutil.ignore_patterns(".lab"))
    (inventory / ".lab").mkdir()
    shutil.copy(hosts.ssh_config, inventory / ".lab/ssh_config")
    # Sources and the toolchain's packages are fetched once for all tests, not once for each operator.
    cache = str(downloads.cache_directory().parent)
    return Operator(tmp_path, hosts, {"RECONCILER_INVENTORY": str(inventory), "XDG_CACHE_HOME": cache})


def alice_wants(admin: Operator, *packages: str) -> None:
    file = Path(admin.environment["RECONCILER_INVENTORY"], "host_vars/gnu01.yml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"desired": {"users": {"alice": {"packages": list(packages)}}}}))


def links(host: TestHost, profile: str) -> dict[str, str]:
    """Generations by their link's name, and `current`."""
    link = host.root / profile
    numbered = {entry.name: os.readlink(entry) for entry in link.parent.glob(f"{link.name}-*-link")}
    return {**numbered, "current": os.readlink(link)}


def packages_of_alice(host: TestHost) -> list[str]:
    return host.nix("nix-env", "-q", "-p", f"/{ALICE}").stdout.split()


def test_gnu_programs_are_built_run_removed_rolled_back_and_returned_to(admin: Operator) -> None:
    alice_wants(admin, "hello", "units")
    admin.run("deploy", "--hosts", "gnu01,gnu02", "--yes", "-m", "GNU programs", timeout=420)
    first, second = admin.fleet
    for host in admin.fleet:
        assert host.run("/run/current-system/sw/bin/hello").stdout == HELLO
        assert host.run(["bash", "-lc", "hello --version"]).stdout.startswith("hello (GNU Hello) 2.10\n")
        assert host.run(["bash", "-lc", "units -t 'kilometer' 'meter'"]).stdout.split() == ["1000"]
    assert "hello -> " in second.run(["bash", "-lc", "tree --noreport /run/current-system/sw/bin"]).stdout
    assert second.run(["bash", "-lc", "which hello"]).stdout == "/run/current-system/sw/bin/hello\n"
    assert second.run(["bash", "-lc", "readlink $(type -p which)"]).stdout.startswith("/nix/store/")
    assert first.run("hello", "alice").returncode == 127, "a shell that reads no profile has no PATH of ours"
    assert first.run(["su", "-", "alice", "-c", "hello"]).stdout == HELLO
    assert first.run("~/.nix-profile/bin/hello", "alice").stdout == HELLO
    assert packages_of_alice(first) == ["hello-2.10", "units-2.22"]

    alice_wants(admin, "units")
    admin.run("deploy", "--hosts", "gnu01", "-m", "without hello")
    assert packages_of_alice(first) == ["units-2.22"]
    assert first.run("~/.nix-profile/bin/hello", "alice").returncode == 127
    admin.run("rollback", "--hosts", "gnu01", "--yes")
    assert packages_of_alice(first) == ["hello-2.10", "units-2.22"]
    assert first.run("~/.nix-profile/bin/hello", "alice").stdout == HELLO
    assert links(first, ALICE)["current"] == "profile-1-link"

    # Again without it: the highest generation points there already, so there is no new one; then back with a new one.
    admin.run("deploy", "--hosts", "gnu01", "--again")
    assert links(first, ALICE)["current"] == "profile-2-link"
    alice_wants(admin, "hello", "units")
    admin.run("deploy", "--hosts", "gnu01")
    made = links(first, ALICE)
    assert made["current"] == "profile-3-link"
    assert made["profile-1-link"] == made["profile-3-link"] != made["profile-2-link"]
    assert first.run("~/.nix-profile/bin/hello", "alice").stdout == HELLO

    listed = first.nix("nix-env", "--list-generations", "-p", f"/{ALICE}").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["1", "2", "3"]
    assert listed[2].endswith("(current)")
    before = links(first, SYSTEM)
    for host in admin.fleet:
        host.nix("nix-collect-garbage")
        assert host.run("/run/current-system/sw/bin/hello").stdout == HELLO
    first.nix("nix-env", "--rollback", "-p", f"/{ALICE}")
    assert packages_of_alice(first) == ["units-2.22"], "what we recorded is whole after a collection"
    assert links(first, SYSTEM) == before
    admin.verify()


@pytest.mark.slow
def test_jq_and_less_run_with_libraries_and_terminals_of_the_store_alone(administrator: Admin, tmp_path: Path) -> None:
    """From Debian's tarballs: jq by autoreconf, with oniguruma and a patch; less with ncurses and its terminals."""
    admin = administrator("gnu03")
    admin.run("deploy", "--hosts", "gnu03", "-m", "jq and less", timeout=1800)
    (host,) = admin.fleet
    jq = """echo '{"a": ["one", "two"]}' | jq -c '.a | map(ascii_upcase | sub("(?<x>[A-M])"; "\\(.x)\\(.x)"))'"""
    assert host.run(["bash", "-lc", jq]).stdout == '["ONEE","TWO"]\n'
    assert host.run(["bash", "-lc", "jq --version"]).stdout == "jq-1.6\n"
    assert host.run(["bash", "-lc", "less --version"]).stdout.startswith("less 590 (POSIX regular expressions)\n")
    assert host.run(["bash", "-lc", "hello | less"]).stdout == HELLO
    built = admin.json("build", "jq", "less", "ncurses")["packages"]
    jq_path, less, ncurses = (StorePath.parse(package["paths"][0]) for package in built)
    text = f"{less}/share/man/man1/less.1"
    with Store.open(str(admin.store)) as store:
        toolchain = {"debian-12-libc", "debian-12-shell"}  # a shell: libraries come with a script that tells of them
        assert {path.name for path in store.closure([jq_path])} == {"jq-1.6", "oniguruma-6.9.8", *toolchain}
        assert {path.name for path in store.closure([less])} == {"less-590", "ncurses-6.4", *toolchain}
        assert bare.run(tmp_path / "1", store, [jq_path], f"{jq_path}/bin/jq", "-n", '"ab" | test("^a.$")') == "true\n"
        for number, (term, colors) in enumerate({"xterm-256color": "256", "linux": "8", "screen": "8"}.items(), 2):
            tput = bare.run(tmp_path / f"{number}", store, [ncurses], f"{ncurses}/bin/tput", "colors", term=term)
            assert tput == f"{colors}\n"
        shown = bare.on_terminal(
            tmp_path / "less", store, [less], f"{less}/bin/less", text, term="xterm-256color", typed="q"
        )
        unknown = bare.on_terminal(tmp_path / "no", store, [less], f"{less}/bin/less", text, term="nix", typed="\nq")
    assert ".TH LESS 1" in shown
    assert "\x1b[?1049h" in shown, "what this terminal wants to be told first"
    assert "terminal is not fully functional" not in shown
    assert "terminal is not fully functional" in unknown
    admin.run("build", "jq", "less", "--check", timeout=900)
    admin.verify()
