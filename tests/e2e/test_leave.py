"""leave: a host is as it was before its first deployment, whatever was on it, and however often it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeOperator
from tests.e2e.test_profiles import PROFILES, generations, install
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

EVERYTHING = {
    "packages": ["greet@1.0"],
    "users": {"alice": {"packages": ["tally"]}},
    "profiles": {"/opt/site/tools": {"packages": ["tally"]}},
}


def disk(host: TestHost) -> dict[str, str]:
    """Every path of the host's disk with its mode, owner, and content or target; less what any look changes."""
    found = {}
    for directory, directories, files in os.walk(host.root):
        for name in [*directories, *files]:
            path = Path(directory, name)
            shown = str(path.relative_to(host.root))
            if shown.split("/", maxsplit=1)[0] in ("proc", "dev", "sys", "run", "tmp", "var") or "/nix/db/db." in shown:
                continue
            status = path.lstat()
            what = os.readlink(path) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else ""
            found[shown] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {what}"
    return found


def test_a_host_that_had_no_nix_is_as_it_was_and_can_be_managed_anew(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    host = admin.fleet["web01"]
    before = disk(host)
    admin.want(EVERYTHING)
    admin.run("deploy", "--hosts", "web01")
    admin.want({**EVERYTHING, "packages": ["greet@2.0"]})
    admin.run("deploy", "--hosts", "web01")

    deployed = disk(host)
    shown = admin.run("leave", "--hosts", "web*", "--check").stdout
    assert "web02   nothing: this host is not managed" in shown
    assert all(f"removes   {path}" in shown for path in ("/etc/profile.d/reconciler.sh", "/nix/store", "/opt/site"))
    refused = admin.run("leave", "--hosts", "web01", status=2).stderr
    assert "would have asked: Undo the management of 1 host?" in refused
    assert disk(host) == deployed

    left = admin.json("leave", "--hosts", "web01", "--yes")["hosts"][0]
    assert (left["state"], left["nix"], left["keeps"]) == ("left", True, [])
    assert disk(host) == before
    assert not os.path.lexists(host.root / "run/current-system")
    assert admin.json("leave", "--hosts", "web01", "--yes")["hosts"][0]["state"] == "nothing"

    admin.run("deploy", "--hosts", "web01")
    assert host.run("bash -lc 'greet; tally'", "alice").stdout == "hello from words 2.0\ntally\n"
    assert generations(host, f"{PROFILES}/system") == [1]


def test_what_others_made_is_what_it_was_and_stays(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    install(host, f"{PROFILES}/default", "foreign-1.0")
    profiles = host.root / "nix/var/nix/profiles"
    before = {name: os.readlink(profiles / name) for name in os.listdir(profiles) if (profiles / name).is_symlink()}
    admin.want({**EVERYTHING, "profiles": {"default": {"packages": ["tally"]}}})
    admin.run("deploy", "--hosts", "web01", "--adopt", "--yes")
    install(host, "/opt/mine", "mine-1.0")
    host.run("echo '# by hand' >> /etc/profile.d/reconciler.sh")
    host.nix("nix-env", "-p", f"{PROFILES}/system", "--set", os.readlink(profiles / "default-1-link"))

    left = admin.run("leave", "--hosts", "web01", "--yes").stdout
    assert "default: 2 -> 1, it is what it was before; 1 of its generations are gone" in left
    assert "system: stays as it is, something else has made generation 2 the current one since" in left
    assert "/etc/profile.d/reconciler.sh: it was changed by hand" in left
    assert "/nix: it was there before the first deployment" in left
    after = {name: os.readlink(profiles / name) for name in os.listdir(profiles) if (profiles / name).is_symlink()}
    assert after == {**before, "system": "system-2-link", "system-2-link": before["default-1-link"]}
    assert "reconciler" not in os.listdir(host.root / "nix/var")
    host.nix("nix-store", "--gc")
    assert host.run(f"{PROFILES}/default/bin/foreign-1.0; /opt/mine/bin/mine-1.0").stdout == "foreign-1.0\nmine-1.0\n"
    assert not os.path.lexists(host.root / "home/alice/.nix-profile")
