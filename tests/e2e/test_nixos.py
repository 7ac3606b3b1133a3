"""NixOS hosts. NixOS itself cannot be had here: what stands for one is a host with /etc/NIXOS, and systems, evaluated
by real Nix, whose switch-to-configuration does what NixOS's says that it does (its statuses, /run/current-system, the
boot loader's choice, mounts), and writes down what it was called for."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.build.toolchain import host_system, host_toolchain
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.exporting import export_paths
from reconciler.core.store.store import Store
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

SYSTEM_PROFILE = "/nix/var/nix/profiles/system"
SWITCH = r"""#!/bin/sh
set -eu
top=$(dirname "$(dirname "$(readlink -f "$0")")")
fault=$(cat "$top/fault")
echo "$1 $(cat "$top/nixos-version") of $(cat "$(readlink -f /nix/var/nix/profiles/system)/nixos-version")" \
    >> /var/log/switches
if [ -e "/etc/killed-at-$1" ]; then
    rm "/etc/killed-at-$1"
    for process in /proc/[0-9]*; do
        case $(tr '\0' ' ' < "$process/cmdline") in *python*' -I -S '*) kill -9 "${process#/proc/}" ;; esac
    done
    exit 1
fi
case $1:$fault in
    boot:boot) echo "cannot install the boot loader" >&2; exit 1 ;;
    boot:*) mkdir -p /boot; readlink -f /nix/var/nix/profiles/system > /boot/default ;;
    test:init) echo "the init interface is another one"; exit 100 ;;
    test:*)
        mkdir -p /run/activated
        mountpoint -q /run/activated || mount -t tmpfs none /run/activated
        ln -sfn "$top" /run/current-system
        ln -sfn /run/current-system /nix/var/nix/gcroots/current-system
        if [ "$fault" = units ] || [ -e /etc/disk-is-full ]; then
            echo "warning: the following units failed: web.service"
            exit 4
        fi ;;
    *) exit 1 ;;
esac
"""
BUILD = r"""
export PATH=/usr/bin:/bin
mkdir -p $out/bin $out/sw/bin
printf %s "$program" > $out/bin/switch-to-configuration
printf '#!/bin/sh\n' > $out/init
chmod 755 $out/init $out/bin/switch-to-configuration
printf %s "$version" > $out/nixos-version
printf %s "$fault" > $out/fault
printf %s "$system" > $out/system
"""
SYSTEM = """\
{ system ? "SYSTEM", said ? import ./said.nix }:
{
  config.system.build.toplevel = derivation {
    name = "nixos-system-web01-${said.version}"; inherit system;
    inherit (said) version fault;
    toolchain = "TOOLCHAIN"; builder = "/bin/sh"; args = [ "-c" (builtins.readFile ./build) ];
    program = builtins.readFile ./switch;
  };
}
"""
FLAKE = '{ outputs = { self }: { nixosConfigurations."web01.example" = import ./system.nix { }; }; }\n'
FROM_FLAKE = "path:./nixos#web01.example"


def say(admin: Operator, version: str, fault: str = "") -> None:
    """What the configuration is now."""
    folder = admin.directory / "nixos"
    folder.mkdir(exist_ok=True)
    (folder / "system.nix").write_text(SYSTEM.replace("TOOLCHAIN", host_toolchain()).replace("SYSTEM", host_system()))
    (folder / "build").write_text(BUILD)
    (folder / "switch").write_text(SWITCH)
    (folder / "flake.nix").write_text(FLAKE)
    (folder / "said.nix").write_text(f'{{ version = "{version}"; fault = "{fault}"; }}\n')


def switches(host: TestHost) -> list[str]:
    """What switch-to-configuration was called for since the last time this was asked."""
    log = host.root / "var/log/switches"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def version(host: TestHost, link: str) -> str:
    return host.run(f"cat {link}/nixos-version").stdout


def boots(host: TestHost) -> str:
    """The version that the boot loader starts."""
    return version(host, (host.root / "boot/default").read_text().strip())


@pytest.fixture
def nixos(operator: MakeOperator) -> Operator:
    """web01, which nixos-rebuild has made what it is: generation 1, version 24.04."""
    admin = operator(["web01"])
    host = admin.fleet[0]
    (host.root / "etc/NIXOS").touch()
    say(admin, "24.04")
    admin.want({"nixos": FROM_FLAKE})
    built = Path(admin.json("build", f"nixos#{FROM_FLAKE}")["packages"][0]["outputs"]["out"])
    with open(host.root / "root/closure", "wb") as file, Store.open(str(admin.store)) as store:
        export_paths(store, store.closure([StorePath.parse(str(built))]), file.write)
    host.nix("sh", "-c", "nix-store --import < /root/closure")
    host.nix("nix-env", "-p", SYSTEM_PROFILE, "--set", str(built))
    host.run(f"{built}/bin/switch-to-configuration test && {built}/bin/switch-to-configuration boot")
    assert switches(host) == ["test 24.04 of 24.04", "boot 24.04 of 24.04"]
    return admin


def test_a_system_is_adopted_upgraded_rolled_back_and_returned_to_nixos(nixos: Operator) -> None:
    host = nixos.fleet[0]
    nixos.want({"nixos": FROM_FLAKE, "packages": ["greet@1.0"], "users": {"alice": {"packages": ["tally"]}}})
    assert "left alone" not in nixos.run("inventory", "--host", "web01").stdout
    say(nixos, "24.05")
    (refused,) = nixos.json("deploy", "--hosts", "web01", "--yes", status=7)["hosts"]
    assert refused["detail"] == (
        "web01: this would replace what something else made: the profile of the system "
        "(generation 1: nixos-system-web01 24.04)"
    )
    plan = nixos.run("plan", "--hosts", "web01").stdout
    nixos.run("deploy", "--hosts", "web01", "--yes", "--adopt")
    assert switches(host) == ["test 24.05 of 24.04", "boot 24.05 of 24.05"]
    assert (version(host, SYSTEM_PROFILE), version(host, "/run/current-system"), boots(host)) == ("24.05",) * 3
    assert host.run("mountpoint /run/activated").returncode == 0, "what it mounts, the host sees"
    # The host's own packages are the default profile's; PATH and the boot are NixOS's business.
    assert host.run("/nix/var/nix/profiles/default/bin/greet").stdout == "hello from words 1.0\n"
    assert not any((host.root / path).exists() for path in ("etc/profile.d/reconciler.sh", "etc/tmpfiles.d"))
    assert "profile.d" not in plan

    # Nothing to do: nothing is called. What runs is what was asked for.
    nixos.run("deploy", "--hosts", "web01")
    assert switches(host) == []
    say(nixos, "24.11")
    shown = nixos.run("plan", "--hosts", "web01").stdout
    assert "~ nixos-system-web01   24.05 -> 24.11" in " ".join(shown.split()).replace("web01 24", "web01   24"), shown
    nixos.run("deploy", "--hosts", "web01", "--yes")
    assert switches(host) == ["test 24.11 of 24.05", "boot 24.11 of 24.11"]
    nixos.run("rollback", "--hosts", "web01", "--yes")
    assert switches(host) == ["test 24.05 of 24.11", "boot 24.05 of 24.05"]
    nixos.run("rollback", "--hosts", "web01", "--to", "1", "--yes")
    assert (version(host, SYSTEM_PROFILE), version(host, "/run/current-system"), boots(host)) == ("24.04",) * 3
    listed = host.nix("nix-env", "--list-generations", "-p", SYSTEM_PROFILE).stdout.splitlines()
    assert [line.split()[0] for line in listed if "current" in line] == ["1"]
    nixos.run("leave", "--hosts", "web01", "--yes")
    assert version(host, SYSTEM_PROFILE) == "24.04"
    assert version(host, "/run/current-system") == "24.04"


@pytest.mark.parametrize(
    ("fault", "status", "told", "calls"),
    [
        (
            "units",
            4,
            "units failed (status 4)\n  warning: the following units failed: web.service",
            [
                "test 24.05 of 24.04",
                "test 24.04 of 24.04",
            ],
        ),
        ("init", 7, "cannot take over from the system that runs", ["test 24.05 of 24.04"]),
        (
            "boot",
            4,
            "the boot loader could not be installed (status 1)",
            ["test 24.05 of 24.04", "boot 24.05 of 24.05", "boot 24.04 of 24.04", "test 24.04 of 24.04"],
        ),
    ],
)
def test_a_system_that_does_not_come_up_is_undone(
    nixos: Operator, fault: str, status: int, told: str, calls: list[str]
) -> None:
    host = nixos.fleet[0]
    say(nixos, "24.05", fault)
    report = nixos.json("deploy", "--hosts", "web01", "--yes", "--adopt", status=status)
    assert told in report["hosts"][0]["detail"]
    assert report["hosts"][0]["state"] == {4: "reverted", 7: "refused"}[status]
    assert switches(host) == calls
    assert (version(host, SYSTEM_PROFILE), version(host, "/run/current-system"), boots(host)) == ("24.04",) * 3
    # Corrected, it goes through.
    say(nixos, "24.06")
    nixos.run("deploy", "--hosts", "web01", "--yes", "--adopt")
    assert switches(host) == ["test 24.06 of 24.04", "boot 24.06 of 24.06"]


def test_where_the_one_before_does_not_come_up_either_that_is_said(nixos: Operator) -> None:
    host = nixos.fleet[0]
    (host.root / "etc/disk-is-full").touch()
    say(nixos, "24.05")
    (report,) = nixos.json("deploy", "--hosts", "web01", "--yes", "--adopt", status=6)["hosts"]
    assert report["state"] == "unknown"
    assert report["detail"].count("units failed (status 4)") == 2
    assert "; and it could not be undone: " in report["detail"]
    assert (version(host, SYSTEM_PROFILE), boots(host)) == ("24.04", "24.04")
    (found,) = nixos.json("status", "--hosts", "web01")["hosts"][0]["findings"]
    assert (found["subject"], found["remedy"]) == ("activation", "deploy --hosts web01")
    (host.root / "etc/disk-is-full").unlink()
    nixos.run("deploy", "--hosts", "web01", "--yes", "--adopt")
    assert (version(host, SYSTEM_PROFILE), version(host, "/run/current-system"), boots(host)) == ("24.05",) * 3


@pytest.mark.parametrize("killed_at", ["test", "boot"])
def test_a_switch_that_was_cut_off_is_told_and_made_whole(nixos: Operator, killed_at: str) -> None:
    host = nixos.fleet[0]
    (host.root / f"etc/killed-at-{killed_at}").touch()
    say(nixos, "24.05")
    (report,) = nixos.json("deploy", "--hosts", "web01", "--yes", "--adopt", status=6)["hosts"]
    assert (report["state"], "half done: its system may be half started, and another may boot" in report["detail"]) == (
        "unknown",
        True,
    ), report
    assert boots(host) == "24.04"
    switches(host)
    told = nixos.run("status", "--hosts", "web01").stdout
    assert "a switch of NixOS did not come to its end: its system may be half started, and another may boot" in told
    # Whatever the profile is and what runs seems to be: all of it is done again. One user's packages settle nothing.
    nixos.want({"nixos": FROM_FLAKE, "users": {"alice": {"packages": ["tally"]}}})
    nixos.run("deploy", "--hosts", "web01", "--users", "alice", "--yes")
    assert switches(host) == []
    plan = " ".join(nixos.run("plan", "--hosts", "web01", "--adopt").stdout.split())
    if killed_at == "boot":
        assert "generation 2 is set already; it is activated again" in plan
    nixos.run("deploy", "--hosts", "web01", "--yes", "--adopt")
    assert switches(host)[-2:] == [f"test 24.05 of 24.0{4 + (killed_at == 'boot')}", "boot 24.05 of 24.05"]
    assert (version(host, SYSTEM_PROFILE), version(host, "/run/current-system"), boots(host)) == ("24.05",) * 3
    assert "did not come to its end" not in nixos.run("status", "--hosts", "web01").stdout
    nixos.run("deploy", "--hosts", "web01")
    assert switches(host) == []


def test_a_first_system_that_does_not_come_up_is_not_said_to_be_put_back(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    (host.root / "etc/NIXOS").touch()
    say(admin, "24.05", "units")
    admin.want({"nixos": FROM_FLAKE})
    (report,) = admin.json("deploy", "--hosts", "web01", "--yes", status=6)["hosts"]
    assert report["state"] == "unknown"
    assert "and it could not be undone: there is no system that ran before it" in report["detail"]
    assert not (host.root / SYSTEM_PROFILE[1:]).exists()


def test_boot_leaves_what_runs_and_test_leaves_what_boots(nixos: Operator) -> None:
    host = nixos.fleet[0]
    say(nixos, "24.05", "init")
    nixos.run("deploy", "--hosts", "web01", "--yes", "--adopt", "--action", "boot")
    assert switches(host) == ["boot 24.05 of 24.05"]
    assert (version(host, SYSTEM_PROFILE), version(host, "/run/current-system"), boots(host)) == (
        "24.05",
        "24.04",
        "24.05",
    )
    say(nixos, "24.06")
    nixos.run("deploy", "--hosts", "web01", "--yes", "--action", "test")
    assert switches(host) == ["test 24.06 of 24.05"]
    assert (version(host, SYSTEM_PROFILE), version(host, "/run/current-system"), boots(host)) == (
        "24.05",
        "24.06",
        "24.05",
    )
    nixos.run("deploy", "--hosts", "web01", "--yes")
    assert switches(host) == ["boot 24.06 of 24.06"], "it runs already"


def test_a_file_and_a_store_path_name_a_system_as_a_flake_does(nixos: Operator) -> None:
    host = nixos.fleet[0]
    say(nixos, "24.05")
    wanted = nixos.json("build", f"nixos#{FROM_FLAKE}")["packages"][0]["outputs"]["out"]
    (nixos.directory / "nixos/hosts.nix").write_text("{ web01 = import ./system.nix { }; }\n")
    for text in ("nixos/system.nix", "nixos/hosts.nix#web01", wanted, "path:{{ 'nixos' }}#web01.example"):
        nixos.want({"nixos": text.replace("{{ 'nixos' }}", "{{ 'nix' }}os")})
        (planned,) = nixos.json("plan", "--hosts", "web01", "--adopt")["hosts"]
        assert planned["changes"][0]["after"] == {"number": 2, "path": wanted}, text
    nixos.run("deploy", "--hosts", "web01", "--yes", "--adopt")
    assert host.run("readlink /run/current-system").stdout.strip() == wanted


def test_a_host_gets_the_systems_that_it_can_run(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    (admin.fleet["web02"].root / "etc/NIXOS").touch()
    say(admin, "24.05")
    admin.want({"nixos": FROM_FLAKE}, "host_vars/web01")
    admin.want({"packages": ["greet@1.0"]}, "host_vars/web02")
    one, other = admin.json("plan", status=0)["hosts"]
    assert one["error"].startswith("web01 runs Debian")
    assert one["error"].endswith(", and the inventory has a NixOS system for it (`nixos`)")
    assert other["error"] == "web02 runs NixOS, whose system profile holds NixOS systems alone"
    admin.want({"packages": ["greet@1.0"], "nixos": "unmanaged"}, "host_vars/web02")
    admin.run("deploy", "--hosts", "web02", "--yes")
    host = admin.fleet["web02"]
    assert host.run("/nix/var/nix/profiles/default/bin/greet").stdout == "hello from words 1.0\n"
    assert not (host.root / SYSTEM_PROFILE[1:]).exists()
