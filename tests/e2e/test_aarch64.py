"""A fleet of two systems: what an aarch64 host needs is made on a machine that runs its programs, and runs there.

arm01 is a whole machine with Debian's kernel for arm64, in qemu (tests/hosts/virtual.py); the agent, the sandbox and
real Nix run on it as on any other. The controller and x01 are this machine's. As root on a machine that lacks what is
needed these tests fail, and say what that is; `make soak` installs it first.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.build import elf
from reconciler.core.build.toolchain import host_system
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.packages import downloads
from tests.channels.maker import real_channel, site
from tests.e2e.operator import Operator
from tests.e2e.test_build_on import built_in
from tests.e2e.test_gnu import Admin, administrator
from tests.hosts.aarch64 import debian, emulation
from tests.hosts.fixture import MakeFleet
from tests.hosts.virtual import Machine, machine
from tests.packages import bare
from tests.packages.channel import ARM, X86

pytestmark = [
    pytest.mark.root,
    pytest.mark.nix,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(host_system() != X86, reason="the other system is meant to be aarch64-linux"),
]

__all__ = ["administrator"]  # a fixture

PROGRAMS = "/run/current-system/sw/bin"
ELF_MACHINE = {X86: 62, ARM: 183}
STORE = "ls -A /nix /nix/store 2>&1 || true"
LOADER = {X86: "ld-linux-x86-64.so.2", ARM: "ld-linux-aarch64.so.1"}


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("arm") / "arm01", "arm01", debian()) as made:
        yield made


class Mixed:
    """x01 and arm01 in one inventory."""

    def __init__(self, admin: Operator, arm: Machine) -> None:
        self.admin, self.arm = admin, arm
        self.inventory = Path(admin.environment["RECONCILER_INVENTORY"])
        with (self.inventory / ".lab/ssh_config").open("a") as file:
            file.write(arm.ssh_config.read_text())

    def hosts(self, packages: list[str], arm_is: str = ARM) -> None:
        """Write the inventory; `arm_is` empty: nothing is said of its system."""
        settings = {
            "ansible_user": "root",
            "ansible_timeout": 60,
            "ansible_ssh_common_args": "-F '{{ inventory_dir }}/.lab/ssh_config'",
            "desired": {"packages": packages},
        }
        arm = {"desired": {"system": arm_is}} if arm_is else {}
        tree = {"all": {"vars": settings, "hosts": {"x01": {}, "arm01": arm}}}
        (self.inventory / "hosts.yml").write_text(json.dumps(tree))

    def project(self, text: str) -> None:
        (self.admin.directory / "reconciler.yml").write_text(text)

    def verify(self) -> None:
        self.admin.verify()
        said = self.arm.ssh("NIX_REMOTE= nix-store --verify --check-contents 2>&1 || echo error: $?", timeout=600)
        assert "error" not in said, said
        assert "disappeared" not in said, said


@pytest.fixture
def mixed(administrator: Admin, arm: Machine) -> Mixed:
    return Mixed(administrator("x01"), arm)


def loaded(file: Path) -> tuple[int, str]:
    """The ELF machine of a program, and its interpreter."""
    fd = os.open(file, os.O_RDONLY)
    try:
        found = elf.read(fd)
        assert found is not None
        return int.from_bytes(os.pread(fd, 2, 18), "little"), found.interpreter
    finally:
        os.close(fd)


def test_an_aarch64_host_that_nobody_calls_so_gets_nothing(mixed: Mixed) -> None:
    wrong = "it is aarch64-linux, and the inventory does not say so: without `system`, a host is x86_64-linux"
    hint = "say it of the host or its group:  desired: {system: aarch64-linux}"
    mixed.hosts(["units"], arm_is="")
    before = mixed.arm.ssh(STORE)
    told = mixed.admin.run("doctor", "--hosts", "all", status=3).stdout
    assert f"{wrong}   {hint}" in told
    report = mixed.admin.run("deploy", "--hosts", "arm01", "--yes", status=3)
    assert wrong in report.stdout + report.stderr
    assert hint in report.stdout + report.stderr
    assert built_in(mixed.admin.store) == []
    assert mixed.arm.ssh(STORE) == before
    # Nor is it a builder for what it is taken to run.
    mixed.hosts(["tree"], arm_is="")
    mixed.project("builders: [arm01]\n")
    refused = mixed.admin.run("deploy", "--hosts", "x01", "--build-on", "arm01", "--yes", status=3)
    told = refused.stdout + refused.stderr
    assert "tree-2.1.0 is to be built on x86_64-linux, and the builder arm01 is aarch64-linux" in told
    assert "reconciler.yml says what a builder is:  builders: [arm01: {system: aarch64-linux}]" in told


SEVEN = """version: 7
toolchain: debian-12
source: {path: seven.c}
build: |
  mkdir -p $out/bin
  gcc -o $out/bin/seven seven.c
"""
SOURCE = """#include <stdio.h>
#include <sys/utsname.h>
int main(void) { struct utsname us; uname(&us); return puts(us.machine) < 0; }
"""
SAYS = {X86: "x86_64\n", ARM: "aarch64\n"}


def write_seven(packages: Path) -> None:
    """A C program that says what it runs on."""
    (packages / "seven.yml").write_text(SEVEN)
    (packages / "seven.c").write_text(SOURCE)


def check_seven(admin: Operator, system: str, scratch: Path, *build: str) -> None:
    """What the controller's store has for a system is of it, and runs where there is nothing but the store."""
    (made,) = admin.json("build", "seven", *build, "--system", system)["packages"]
    seven = StorePath.parse(made["paths"][0])
    with Store.open(str(admin.store)) as store:
        kind, interpreter = loaded(Path(store.real(seven), "bin/seven"))
        assert (kind, Path(interpreter).name) == (ELF_MACHINE[system], LOADER[system])
        assert interpreter.startswith("/nix/store/")
        assert {path.name for path in store.closure([seven])} == {"seven-7", "debian-12-libc"}
        assert bare.run(scratch, store, [seven], f"{seven}/bin/seven") == SAYS[system]


def made_in(root: Path) -> list[str]:
    """What was built in a store, but for environments."""
    return [name for name in built_in(root) if name != "user-environment"]


def test_each_host_gets_a_program_made_by_a_machine_of_its_own_system(mixed: Mixed, tmp_path: Path) -> None:
    admin, arm = mixed.admin, mixed.arm
    (x86,) = admin.fleet
    write_seven(mixed.inventory / "packages")
    mixed.hosts(["seven"])
    told = admin.run("deploy", "--hosts", "all", "--yes=2", status=2).stderr
    assert ": seven of arm01: seven-7 is built on aarch64-linux, and nobody has that: controller x86_64-linux" in told
    assert "builders: [HOST: {system: aarch64-linux}]" in told
    assert built_in(admin.store) == []

    mixed.project("builders: [arm01]\n")
    sites = admin.json("plan", "--hosts", "all")["sites"]
    assert sites == [
        {"places": ["controller"], "builds": ["seven-7"]},
        {"places": ["arm01"], "builds": ["seven-7"]},
    ]
    admin.run("deploy", "--hosts", "all", "--yes=2", timeout=1800)
    assert x86.run(f"{PROGRAMS}/seven").stdout == SAYS[X86]
    assert arm.ssh(f"{PROGRAMS}/seven") == SAYS[ARM]
    assert made_in(admin.store) == ["seven-7"], "that for x86_64; the other was built on arm01"
    assert arm.ssh("ls /nix/var/log/nix/drvs/*/").strip().endswith("-seven-7.drv.bz2")
    with emulation():
        for system in (X86, ARM):
            check_seven(admin, system, tmp_path / system)

    locked = (mixed.inventory / "reconciler.lock").read_text()
    assert all(f"    {system}: {{set: recipes, version: 7," in locked for system in (X86, ARM))
    admin.run("lock", "--check")
    assert "0 to change, 2 unchanged" in admin.run("deploy", "--hosts", "all", "--yes=2", "--locked").stderr
    admin.run("rollback", "--hosts", "arm01", "--yes")
    assert arm.ssh(f"test -e {PROGRAMS}/seven || echo gone") == "gone\n"
    mixed.verify()


def test_a_channel_of_two_systems_gives_each_host_its_own(mixed: Mixed, tmp_path: Path) -> None:
    (x86,) = mixed.admin.fleet
    mixed.hosts(["jq", "tree", "python3"])
    shutil.rmtree(mixed.inventory / "packages")  # or its recipes for jq and tree would be meant
    channel = real_channel()
    with site(channel, tmp_path / "site") as server:
        mixed.project(f'sets: [debian: {{channel: "{server.url}/channel", key: "{channel.key}"}}]\n')
        mixed.admin.run("deploy", "--hosts", "all", "--yes=2", timeout=1200)
        mixed.admin.run("lock", "--check")
    asked = "import platform, sqlite3, ctypes; print(platform.machine())"
    for system, run in ((X86, lambda line: x86.run(line).stdout), (ARM, mixed.arm.ssh)):
        assert run(f"{PROGRAMS}/jq -n 6*7") == "42\n"
        # -B: a host that built before anything was deployed to it has a store that root can write to, and Python does.
        assert run(f'{PROGRAMS}/python3 -B -c "{asked}"') == f"{system.removesuffix('-linux')}\n"
    mixed.verify()


@pytest.mark.parametrize("who", ["build01", "controller"])
def test_who_emulates_builds_for_both_systems(fleet: MakeFleet, tmp_path: Path, who: str) -> None:
    """No machine of aarch64 is needed, and none is logged in to: what is made stays on the controller."""
    admin = Operator(tmp_path, fleet(["build01"]), {"XDG_CACHE_HOME": str(downloads.cache_directory().parent)})
    (build01,) = admin.fleet
    settings = admin.fleet.directory / "reconciler.yml"
    write_seven(admin.fleet.directory / "packages")
    settings.write_text("builders: [build01]\n")
    told = admin.run("build", "seven", "--build-on", who, "--system", ARM, status=3).stderr
    assert f"seven-7 is built on aarch64-linux, and nobody has that, where it is to be built ({who}): {who} x86" in told

    settings.write_text(f"builders: [{who}: {{system: [{X86}, {ARM}]}}]\n")
    with emulation():
        for system in (X86, ARM):
            check_seven(admin, system, tmp_path / system, "--build-on", who)
    built = {"build01": built_in(build01.root), "controller": built_in(admin.store)}
    assert built == {"build01": [], "controller": [], who: ["seven-7", "seven-7"]}
    admin.verify()
