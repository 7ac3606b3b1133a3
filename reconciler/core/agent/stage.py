"""Staging: everything a switch needs is on the host, whole, and kept; nothing that runs has changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from reconciler.core.activate import current_system
from reconciler.core.agent import lock, profiles
from reconciler.core.agent.host import PYTHON_ROOT, Host
from reconciler.core.agent.messages import StageReply, StageRequest
from reconciler.core.errors import ReconcilerError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.names import ProfileId

if TYPE_CHECKING:
    from reconciler.core.store.working import WorkingStore


def stage(host: Host, request: StageRequest) -> StageReply:
    """Root what each profile is to point at, and check that it could be switched.

    StoreError when a closure is not complete: the copy was not. What makes one profile unfit (no such account, a home
    that is not there) is told in `problems` and fails that profile only. Roots of an earlier stage are freed.
    """
    lock.require(host, request.deployment)
    wanted = {ProfileId.parse(name): StorePath.parse(path) for name, path in request.profiles.items()}
    problems: dict[str, str] = {}
    for profile in wanted:
        host.require_mine(profile)
    with host.open_store() as store:
        for profile, path in wanted.items():
            store.add_root(host.stage_root(str(profile)), path)
        _free_others(host, store, {str(profile) for profile in wanted})
        check_closures(store, wanted.values())
        for profile, path in wanted.items():
            problem = _problem(host, profile, path)
            if problem:
                problems[str(profile)] = problem
                store.remove_root(host.stage_root(str(profile)))
    return StageReply(tuple(str(profile) for profile in wanted if str(profile) not in problems), problems)


def check_closures(store: WorkingStore, paths: Iterable[StorePath]) -> None:
    """StoreError unless each path, and all it refers to, is valid and its files are there."""
    for path in store.closure(paths):
        if not os.path.lexists(store.real(path)):
            raise StoreError(f"{path} is registered, but its files are not there", "nix-store --verify shows what else")


def free(host: Host, store: WorkingStore, profile: str) -> None:
    """The switch has been made: what it made current is a root of its own."""
    store.remove_root(host.stage_root(profile))


def staged_path(host: Host, profile: str) -> str:
    """What is staged for a profile and not switched to yet; empty for nothing."""
    try:
        return os.readlink(host.stage_root(profile))
    except OSError:
        return ""


def _problem(host: Host, profile: ProfileId, path: StorePath) -> str:
    found = profiles.find(host, profile)
    if found.problem or not profile.is_system:
        return found.problem
    try:
        current_system.check(path, host.root, profiles.was_there(found, str(path)))
        current_system.raw_target(host.root)
    except ReconcilerError as error:
        return error.message
    return ""


def _free_others(host: Host, store: WorkingStore, keep: set[str]) -> None:
    for name in _staged(host):
        if name not in keep:
            store.remove_root(host.stage_root(name))


def _staged(host: Host) -> list[str]:
    """The profiles that something is staged for."""
    top = host.path(host.stage_roots)
    found = []
    python = os.path.basename(PYTHON_ROOT)  # what we may be running on
    with contextlib.suppress(FileNotFoundError):
        found += [name for name in os.listdir(top) if name != python and os.path.islink(os.path.join(top, name))]
    with contextlib.suppress(FileNotFoundError):
        found += [f"user/{name}" for name in os.listdir(os.path.join(top, "user"))]
    with contextlib.suppress(FileNotFoundError):
        found += [name.replace(":", "/") for name in os.listdir(os.path.join(top, "place"))]
    return found
