"""What hosts hold, as YAML that the inventory reads back; and what leaving takes, as text."""

from __future__ import annotations

from pathlib import Path

from reconciler.cli.render.imported import imported_json, imported_yaml
from reconciler.cli.render.leaving import leaving_json, leaving_text
from reconciler.core.agent.messages import GenerationRef, HeldPackage, Holding, LeaveReply, LeavingProfile
from reconciler.core.errors import UnreachableError
from reconciler.fleet.importing import HostHoldings
from reconciler.fleet.logins import HostResult, Stage
from tests.fleet.values import path
from tests.inventory.trees import read

HTOP, GIT, MAN, OLD = (str(path(name)) for name in ("htop-3.2", "git-2.42", "git-2.42-man", "git-2.30"))
CURRENT = GenerationRef(3, str(path("user-environment")))


def holding(profile: str, *packages: HeldPackage, note: str = "") -> Holding:
    return Holding(profile, f"/somewhere/{profile}", CURRENT, packages, note)


HOST = HostHoldings(
    "web01",
    (
        holding("system", note="it is a NixOS system, which only nixos-rebuild replaces"),
        holding("/opt/tools"),
        holding("default", HeldPackage(HTOP, 4), HeldPackage(GIT, 5), HeldPackage(MAN, 5), HeldPackage(OLD, 5)),
        holding("user/alice", HeldPackage(GIT, 5), HeldPackage(HTOP, 5, active=False)),
        holding("user/root", note="Nix itself lives in it"),
    ),
)

TEXT = f"""\
# web01: host_vars/web01.yml
desired:
  # system is left out: it is a NixOS system, which only nixos-rebuild replaces
  profiles:
    /opt/tools:
      packages: []
    default:
      packages:
        - {HTOP}: {{priority: 4}}      # htop 3.2
        - {GIT}      # git 2.42
        - {MAN}      # git 2.42-man
        # {OLD}      # git 2.30: an inventory has one 'git' for a profile
  users:
    alice:
      packages:
        - {GIT}      # git 2.42
        # {HTOP}      # htop 3.2: it is not active there
    # root is left out: Nix itself lives in it"""


def test_one_host_is_what_its_file_in_host_vars_says(tmp_path: Path) -> None:
    assert imported_yaml([HOST]) == TEXT
    inventory = read(tmp_path, "all: {hosts: {web01: }}", host_vars__web01=TEXT)
    desired = inventory.desired("web01")
    assert {place: list(spec.packages) for place, spec in desired.places.items()} == {
        "/opt/tools": [],
        "default": ["htop", "git", "git-man"],
    }
    assert desired.places["default"].packages["htop"].priority == 4
    assert list(desired.users) == ["alice"]
    assert desired.system is None


def test_several_hosts_are_a_file_of_the_inventory(tmp_path: Path) -> None:
    bare = HostHoldings("db01", (), "aarch64-linux")
    lost = HostHoldings("web02", error=UnreachableError("web02: no answer"))
    inventory = read(tmp_path, imported_yaml([HOST, bare, lost]))
    assert list(inventory.hosts) == ["web01", "db01"]
    assert inventory.desired("db01").architecture == "aarch64-linux"
    assert list(inventory.desired("web01").places) == ["/opt/tools", "default"]


def test_a_host_of_which_nothing_can_be_taken_over_is_a_comment(tmp_path: Path) -> None:
    nixos = HostHoldings("web01", HOST.profiles[:1])
    read(tmp_path, "all: {hosts: {web01: }}", host_vars__web01=imported_yaml([nixos]))
    read(tmp_path, imported_yaml([nixos, HostHoldings("web02")]))


def test_the_json_of_an_import_has_its_documented_keys() -> None:
    (host,) = imported_json([HOST])["hosts"]
    assert list(host) == ["host", "error", "system", "copied", "profiles"]
    assert host["profiles"][1] == {
        "profile": "/opt/tools",
        "link": "/somewhere//opt/tools",
        "current": CURRENT.to_json(),
        "packages": [],
        "note": "",
    }


REPLY = LeaveReply(
    True,
    (
        LeavingProfile("system", "/nix/var/nix/profiles/system", CURRENT, None, ("system-1-link", "system-3-link")),
        LeavingProfile(
            "default", "/nix/var/nix/profiles/default", CURRENT, GenerationRef(2, HTOP), ("default-3-link",)
        ),
        LeavingProfile(
            "user/bob", "/p", CURRENT, None, (), "something else has made generation 3 the current one since"
        ),
    ),
    ("/etc/profile.d/reconciler.sh",),
    False,
    ("/nix: /opt/mine is not ours",),
)


def test_what_leaving_takes_is_listed_host_by_host() -> None:
    lost: HostResult[LeaveReply] = HostResult(
        "web03", Stage.FAILED, error=UnreachableError("web03: no answer", "reconciler doctor")
    )
    hosts = [HostResult("web01", Stage.PLANNED, REPLY), HostResult("web02", Stage.NOTHING, LeaveReply(False)), lost]
    assert leaving_text(hosts) == (
        """\
web01
  profile   system: goes away: there was none before; 2 of its generations go
  profile   default: 3 -> 2, it goes back to what it was before; 1 of its generations go
  profile   bob: stays as it is, something else has made generation 3 the current one since
  removes   /etc/profile.d/reconciler.sh
  keeps     /nix: /opt/mine is not ours

web02   nothing: this host is not managed

web03   UNREACHABLE: no answer
  next     reconciler doctor"""
    )
    document = leaving_json(hosts, 5)
    assert [host["state"] for host in document["hosts"]] == ["planned", "nothing", "failed"]
    assert list(document["hosts"][0]) == [
        "host",
        "state",
        "error",
        "hint",
        "profiles",
        "removes",
        "nix",
        "keeps",
    ]
