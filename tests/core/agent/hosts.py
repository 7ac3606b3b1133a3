"""A host below a temporary directory, with accounts, a store and deployments begun on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reconciler.core.agent import change, lock, stage
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import (
    BeginRequest,
    GenerationRef,
    ProfileChange,
    StageRequest,
    Switched,
    SwitchRequest,
)
from reconciler.core.nix.store_path import StorePath
from tests.core.profile.homes import make_root


def make_host(directory: Path) -> Host:
    """An unmanaged host."""
    return Host(str(make_root(directory)))


def begin(host: Host, deployment: str = "260312-1412-k7", who: str = "deployer") -> None:
    lock.begin(host, BeginRequest(deployment, who, "a message"))


def request(
    host: Host, *changes: ProfileChange, kind: str = "deploy", action: str = "switch", undoes: str = ""
) -> SwitchRequest:
    return SwitchRequest(host.session.deployment, kind, "deployer", "a message", action, changes, undoes)


def switch(
    host: Host, *changes: ProfileChange, kind: str = "deploy", action: str = "switch", undoes: str = ""
) -> tuple[Switched, ...]:
    return change.switch(host, request(host, *changes, kind=kind, action=action, undoes=undoes)).switched


def to(profile: str, path: StorePath, expect: GenerationRef | None = None, number: int = 0) -> ProfileChange:
    return ProfileChange(profile, expect, str(path), number)


def away(profile: str, expect: GenerationRef) -> ProfileChange:
    """Back to no profile."""
    return ProfileChange(profile, expect, "")


def stage_all(host: Host, profiles: Mapping[str, StorePath]) -> dict[str, str]:
    """Stage; the problems."""
    wanted = {profile: str(path) for profile, path in profiles.items()}
    return stage.stage(host, StageRequest(host.session.deployment, wanted)).problems


def everything(host: Host) -> list[str]:
    """Every path below the host's root, with what links lead to."""
    root = Path(host.root)
    found = []
    for path in sorted(root.rglob("*")):
        target = f" -> {path.readlink()}" if path.is_symlink() else ""
        found.append(f"{path.relative_to(root)}{target}")
    return found
