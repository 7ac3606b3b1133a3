"""Profiles that are neither the system's nor a user's, and profiles that something else made."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.e2e.conftest import MakeOperator
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

PROFILES = "/nix/var/nix/profiles"


def generations(host: TestHost, profile: str) -> list[int]:
    """The numbers that real Nix lists of a profile."""
    lines = host.nix("nix-env", "--list-generations", "-p", profile).stdout.splitlines()
    return [int(line.split()[0]) for line in lines]


def roots(host: TestHost) -> set[str]:
    """The links that Nix's indirect roots lead to."""
    folder = host.root / "nix/var/nix/gcroots/auto"
    return {os.readlink(folder / name) for name in os.listdir(folder)}


def test_default_and_a_profile_at_a_path_are_deployed_listed_and_rolled_back(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    tools = {"packages": ["tally", "greet@1.0"]}
    admin.want({"profiles": {"default": {"packages": ["greet@1.0"]}, "/opt/site/tools": tools}})
    admin.run("deploy", "--hosts", "web01")
    assert host.run("bash -lc greet", "alice").stdout == "hello from words 1.0\n"
    assert host.run("/opt/site/tools/bin/tally", "alice").stdout == "tally\n"
    assert [oct((host.root / path).stat().st_mode & 0o7777) for path in ("opt/site", "opt")] == ["0o755", "0o755"]
    assert not (host.root / "nix/var/nix/profiles/system").exists()

    admin.want({"profiles": {"/opt/site/tools": {"packages": ["tally", "greet@2.0"]}}})
    plan = admin.json("plan")["hosts"][0]
    assert [(one["profile"], one["left_inventory"]) for one in plan["changes"]] == [
        ("/opt/site/tools", False),
        ("default", True),
    ]
    admin.run("deploy", "--hosts", "web01", "--profiles", "/opt/*")
    assert (generations(host, "/opt/site/tools"), generations(host, f"{PROFILES}/default")) == ([1, 2], [1])
    assert {"/opt/site/tools-1-link", "/opt/site/tools-2-link"} <= roots(host)
    assert os.listdir(host.root / "nix/var/nix/gcroots/reconciler/place") == []

    host.nix("nix-store", "--gc")
    assert host.run("/opt/site/tools/bin/greet").stdout == "hello from words 2.0\n"
    admin.run("rollback", "--hosts", "web01", "--yes")
    assert os.readlink(host.root / "opt/site/tools") == "tools-1-link"
    shown = admin.json("generations", "--hosts", "web01", "--profiles", "*")["hosts"][0]["profiles"]
    assert {name: [one["current"] for one in listed] for name, listed in shown.items()} == {
        "/opt/site/tools": [True, False],
        "default": [True],
    }

    host.nix("nix-env", "--switch-generation", "2", "-p", "/opt/site/tools")
    assert admin.json("status")["hosts"][0]["state"] == "drift"
    host.nix("nix-env", "--rollback", "-p", "/opt/site/tools")
    host.nix("nix-env", "--delete-generations", "2", "-p", "/opt/site/tools")
    host.nix("nix-store", "--gc")
    assert generations(host, "/opt/site/tools") == [1]
    assert host.run("/opt/site/tools/bin/greet").stdout == "hello from words 1.0\n"


def test_default_is_where_newer_nix_leads_it_and_a_place_of_others_is_left_out(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    host.run(f"mkdir -p {PROFILES}/per-user/root; ln -s {PROFILES}/per-user/root/profile {PROFILES}/default")
    host.run("mkdir /opt/open; chmod 777 /opt/open; ln -s /opt/open /opt/link")
    places: dict[str, Any] = {place: {"packages": ["tally"]} for place in ("default", "/opt/open/tools", "/opt/link/t")}
    admin.want({"profiles": places})
    report = admin.json("deploy", "--hosts", "web01", status=3)
    detail = report["hosts"][0]["detail"]
    assert "others than root may write to /opt/open" in detail
    assert "/opt/link is a link: none is followed" in detail
    assert os.readlink(host.root / "nix/var/nix/profiles/default") == f"{PROFILES}/per-user/root/profile"
    assert os.readlink(host.root / "nix/var/nix/profiles/per-user/root/profile") == "profile-1-link"
    assert host.run("bash -lc tally", "alice").stdout == "tally\n"
    assert os.listdir(host.root / "opt/open") == []


def install(host: TestHost, profile: str, name: str) -> str:
    """A package of somebody else's, put into a profile by real Nix; its store path."""
    host.run(f"mkdir -p /tmp/{name}/bin; echo 'echo {name}' > /tmp/{name}/bin/{name}; chmod 755 /tmp/{name}/bin/{name}")
    path = host.nix("nix-store", "--add", f"/tmp/{name}").stdout.strip()
    host.nix("nix-env", "-p", profile, "-i", path)
    return path


def test_what_something_else_made_is_replaced_only_when_it_is_adopted_and_comes_back(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    host = admin.fleet["web01"]
    install(host, f"{PROFILES}/default", "foreign-1.0")
    before = os.readlink(host.root / "nix/var/nix/profiles/default-1-link")
    admin.want({"profiles": {"default": {"packages": ["tally"]}}})

    shown = admin.run("plan").stdout
    assert "REFUSED: this would replace what something else made: profile default" in shown
    assert "foreign 1.0" in shown
    report = admin.json("deploy", "--hosts", "web*", status=7)
    assert {one["host"]: one["state"] for one in report["hosts"]} == {"web01": "refused", "web02": "confirmed"}
    assert "--adopt" in report["hosts"][0]["hint"]
    assert host.run(f"{PROFILES}/default/bin/foreign-1.0").stdout == "foreign-1.0\n"

    adopting = admin.run("plan", "--adopt").stdout
    assert "- foreign" in adopting
    assert "adopts   default" in adopting
    refused = admin.run("deploy", "--hosts", "web01", "--adopt", status=2).stderr
    assert "--adopt replaces what something else made: profile default" in refused
    admin.run("deploy", "--hosts", "web01", "--adopt", "--yes")
    assert host.run("bash -lc 'tally; foreign-1.0 || echo gone'").stdout == "tally\ngone\n"
    admin.run("rollback", "--hosts", "web01", "--yes")
    assert os.readlink(host.root / "nix/var/nix/profiles/default") == "default-1-link"
    assert os.readlink(host.root / "nix/var/nix/profiles/default-1-link") == before


@pytest.mark.parametrize(
    ("profile", "file", "desired", "why"),
    [
        ("default", "bin/nix", {"profiles": {"default": {"packages": ["tally"]}}}, "Nix itself lives in it"),
        ("system", "init", {"packages": ["tally"]}, "it is a NixOS system"),
    ],
)
def test_nix_itself_and_a_nixos_system_are_never_replaced(
    operator: MakeOperator, profile: str, file: str, desired: dict[str, Any], why: str
) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    host.run(f"mkdir -p /tmp/n-1.0/bin; touch /tmp/n-1.0/{file}")
    path = host.nix("nix-store", "--add", "/tmp/n-1.0").stdout.strip()
    host.nix("nix-env", "-p", f"{PROFILES}/{profile}", "--set", path)
    admin.want(desired)
    for words in (["--adopt", "--yes"], []):
        report = admin.json("deploy", "--hosts", "web01", *words, status=7)
        assert why in report["hosts"][0]["detail"]
    assert os.readlink(host.root / f"nix/var/nix/profiles/{profile}-1-link") == path


def test_what_a_host_holds_is_imported_and_deployed_from_here(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    host = admin.fleet["web01"]
    one = install(host, f"{PROFILES}/default", "htop-3.2")
    host.nix("nix-env", "-p", f"{PROFILES}/default", "--set-flag", "priority", "4", "htop")
    host.run("mkdir -p /nix/var/nix/profiles/per-user/alice && chown alice: /nix/var/nix/profiles/per-user/alice")
    host.run("mkdir -p /tmp/n-1.0/bin; touch /tmp/n-1.0/bin/nix")
    nix = host.nix("nix-store", "--add", "/tmp/n-1.0").stdout.strip()
    host.nix("nix-env", "-p", f"{PROFILES}/per-user/root/profile", "-i", nix)
    other = install(host, "/tmp/scratch", "tree-2.1")
    host.run(f"ln -s {PROFILES}/per-user/alice/profile /home/alice/.nix-profile", "alice")
    environment = os.readlink(host.root / "tmp/scratch-1-link")
    host.run(f"ln -s {environment} {PROFILES}/per-user/alice/profile-1-link", "alice")
    host.run(f"ln -s profile-1-link {PROFILES}/per-user/alice/profile", "alice")

    shown = admin.run("import", "--hosts", "web01")
    assert f"- {one}: {{priority: 4}}      # htop 3.2" in shown.stdout
    assert "# root is left out: Nix itself lives in it" in shown.stdout
    assert "reconciler import --copy" in shown.stderr
    copied = admin.run("import", "--hosts", "web01", "--copy")
    assert "2 store paths copied" in copied.stderr
    assert copied.stdout == shown.stdout
    assert "copied" not in admin.run("import", "--hosts", "web01", "--copy").stderr

    file = admin.fleet.directory / "host_vars/web02.yml"
    file.parent.mkdir()
    file.write_text(copied.stdout)
    assert admin.json("plan")["hosts"][1]["problems"] == {}
    admin.run("deploy", "--hosts", "web02", "--yes")
    there = admin.fleet["web02"]
    assert there.run("bash -lc 'htop-3.2; tree-2.1'", "alice").stdout == "htop-3.2\ntree-2.1\n"
    assert admin.json("import", "--hosts", "web02")["hosts"][0]["profiles"] == [
        {
            "profile": profile,
            "link": f"{PROFILES}/{link}",
            "current": {"number": 1, "path": os.readlink(there.root / f"nix/var/nix/profiles/{link}-1-link")},
            "packages": [{"path": path, "priority": priority, "active": True}],
            "note": "",
        }
        for profile, link, path, priority in (
            ("default", "default", one, 4),
            ("user/alice", "per-user/alice/profile", other, 5),
        )
    ]
