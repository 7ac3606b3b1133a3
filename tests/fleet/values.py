"""Values for tests of decisions: observations, generations and targets, made from a few words."""

from __future__ import annotations

import hashlib
from typing import Any

from reconciler.core.agent.messages import GenerationRef, HistoryEntry, Observation, ProfileState
from reconciler.core.nix import base32
from reconciler.core.nix.store_path import StorePath
from reconciler.fleet.plan import Target


def path(name: str) -> StorePath:
    """A well-formed store path that is always the same for the same name."""
    digest = hashlib.sha256(name.encode()).digest()[:20]
    return StorePath.parse(f"/nix/store/{base32.encode(digest)}-{name}")


def generation(number: int, name: str) -> GenerationRef:
    return GenerationRef(number, str(path(name)))


def target(name: str, *packages: str) -> Target:
    return Target(str(path(name)), tuple(path(package) for package in packages))


def entry(deployment: str, before: GenerationRef | None, after: GenerationRef | None, **others: Any) -> HistoryEntry:
    values: dict[str, Any] = {
        "kind": "deploy",
        "who": "oncall@ops01",
        "when": 1000.0,
        "message": "",
        "profile": "system",
        **others,
    }
    return HistoryEntry(deployment=deployment, before=before, after=after, **values)


def profile(name: str, current: GenerationRef | None, **others: Any) -> ProfileState:
    values: dict[str, Any] = {
        "link": "/nix/var/nix/profiles/system",
        "highest": current.number if current else 0,
        "highest_path": current.path if current else "",
        **others,
    }
    return ProfileState(profile=name, current=current, **values)


def observation(*profiles: ProfileState, **others: Any) -> Observation:
    system = next((state for state in profiles if state.profile == "system"), None)
    values: dict[str, Any] = {
        "hostname": "web01",
        "machine_id": "0" * 32,
        "boot_id": "1" * 36,
        "system": "x86_64-linux",
        "os": "Debian GNU/Linux 12",
        "python": "3.11.2",
        "uid": 0,
        "managed": True,
        "nix": "",
        "store_free": 10 * 2**30,
        "store_total": 20 * 2**30,
        "systemd": 252,
        "running": system.current.path if system and system.current else "",
        "booted": "",
        "valid": (),
        "lock": None,
        **others,
    }
    return Observation(profiles=profiles, **values)
