"""Looking at a host: what it is, what its profiles are, whether they are whole. Leaves nothing behind.

A no-op costs one login and one such look, so it reads what it can without the store's database, and the database once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from reconciler.core.activate import current_system, nixos
from reconciler.core.agent import history, lock, nix, profiles, recovery
from reconciler.core.agent.host import PROFILES, Host
from reconciler.core.agent.messages import (
    Generation,
    GenerationsReply,
    HistoryEntry,
    Observation,
    ObserveRequest,
    ProfilesRequest,
    ProfileState,
)
from reconciler.core.agent.profiles import Found
from reconciler.core.errors import FormatError, ReconcilerError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.nix.systems import system_of
from reconciler.core.profile.names import ProfileId
from reconciler.core.values import replace

if TYPE_CHECKING:  # a host without profiles of ours needs no database
    from reconciler.core.store.working import Index

_DISTRIBUTIONS = {"debian": "Debian", "rhel": "RHEL", "rocky": "Rocky", "almalinux": "AlmaLinux"}
_SYSTEMD = ("/usr/lib/systemd", "/lib/systemd", "/usr/lib64/systemd", "/run/current-system/systemd/lib/systemd")
_SYSTEMD_LIBRARY = "libsystemd-shared-"


def observe(host: Host, request: ObserveRequest) -> Observation:
    """Everything a plan needs to know of the host."""
    problems = list(_problems(host))
    entries, problem = _entries(host)
    asked = [*(ProfileId.parse(place) for place in request.places), *(ProfileId(user) for user in request.users)]
    wanted = dict.fromkeys([ProfileId.SYSTEM, *asked, *sorted(_in_history(entries))])
    found = [profiles.find(host, one) for one in wanted]
    with _Questions(host) as store:
        states = tuple(_state(host, store, one, entries) for one in found)
        valid = store.valid(request.paths)
        problems += [one for one in (problem, store.problem) if one]
    space = _space(host)
    machine_id = _first_line(host.path("/etc/machine-id"))
    return Observation(
        hostname=os.uname().nodename,
        machine_id=machine_id,
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
        system=system_of(os.uname().machine),
        os=_distribution(host),
        python=".".join(str(part) for part in sys.version_info[:3]),
        uid=os.geteuid(),
        managed=host.managed,
        nix=nix.version(host),
        store_free=space.f_bavail * space.f_frsize,
        store_total=space.f_blocks * space.f_frsize,
        systemd=_systemd(host),
        running=current_system.running(host.root),
        booted=current_system.booted(host.root),
        profiles=states,
        valid=valid,
        lock=lock.owner(host),
        problems=tuple(problems),
        nixos=nixos.is_host(host.root),
        login=host.login,
    )


def generations(host: Host, request: ProfilesRequest) -> GenerationsReply:
    """The generations of the profiles asked for; of none: of every profile that has some, and the system's."""
    wanted = [ProfileId.parse(name) for name in request.profiles] or _known(host)
    reply: dict[str, tuple[Generation, ...]] = {}
    for profile in wanted:
        found = profiles.find(host, profile)
        if found.problem and request.profiles:
            raise ReconcilerError(f"{profile.label}: {found.problem}")
        if found.generations or request.profiles or profile.is_system:
            reply[str(profile)] = tuple(
                replace(each, packages=_packages(host, profile, each.path)) for each in found.generations
            )
    return GenerationsReply(reply)


def _known(host: Host) -> list[ProfileId]:
    """The system's and the default profile, those of users by Nix's default, and what the history knows."""
    found = _in_history(recovery.entries(host)) | {ProfileId.SYSTEM, ProfileId(place="default")}
    with contextlib.suppress(OSError):  # nobody has one there
        found |= {ProfileId(user) for user in os.listdir(host.path(f"{PROFILES}/per-user"))}
    return sorted(found)


def _in_history(entries: Iterable[HistoryEntry]) -> set[ProfileId]:
    return {ProfileId.parse(entry.profile) for entry in entries}


# --- profiles ---------------------------------------------------------------------------------------------------------


class _Questions:
    """What is asked of the store, which is opened at the first question; a host without one is simply empty."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._index: Index | None = None
        self.problem = ""

    def __enter__(self) -> _Questions:
        return self

    def __exit__(self, *_: object) -> None:
        if self._index is not None:
            self._index.close()

    def _open(self) -> Index | None:
        if self._index is None and self._host.has_store and not _lacking():
            self._index = self._host.open_index()
        return self._index

    def valid(self, paths: Iterable[str]) -> tuple[str, ...]:
        wanted = [StorePath.parse(path) for path in paths]
        try:
            index = self._open() if wanted else None
            return tuple(sorted(str(path) for path in index.valid(wanted))) if index is not None else ()
        except ReconcilerError as error:
            self.problem = error.message
            return ()

    def complete(self, path: str) -> bool:
        """Whether the closure of `path` is valid, and its files are there."""
        try:
            index = self._open()
            closure = index.reachable([StorePath.parse(path)]) if index is not None else {}
            return bool(closure) and all(os.path.lexists(self._host.path(str(one))) for one in closure)
        except ReconcilerError:
            return False


def _state(host: Host, store: _Questions, found: Found, entries: tuple[HistoryEntry, ...]) -> ProfileState:
    profile = str(found.profile)
    last = history.latest(entries, profile)
    foreign = found.current is not None and (last is None or last.after != found.current)
    return ProfileState(
        profile=profile,
        link=found.link,
        current=found.current,
        highest=found.highest,
        highest_path=found.generations[-1].path if found.generations else "",
        packages=_packages(host, found.profile, found.current.path if found.current else ""),
        complete=found.current is None or store.complete(found.current.path),
        cut_off=found.profile.is_system and host.cut_off,
        last=last,
        undone=history.undone(entries, profile),
        problem=found.problem,
        guard=profiles.guard(host, found) if foreign else "",
    )


def _packages(host: Host, profile: ProfileId, generation: str) -> tuple[str, ...]:
    """The packages of one generation's environment; none where that cannot be told."""
    if not generation:
        return ()
    from reconciler.core.profile import environment, toplevel

    path: StorePath | None
    try:
        path = StorePath.parse(generation)
    except FormatError:
        return ()
    if profile.is_system:
        if toplevel.is_nixos(host.path(str(path))):
            return (generation,)
        path = toplevel.sw_of(host.path(str(path)))
    if path is None:
        return ()
    view = View(host.path("/nix/store"))
    return tuple(str(package) for package in environment.manifest_packages(view, path))


class View:
    """A store's files, without its database."""

    def __init__(self, store_dir: str) -> None:
        self.store_dir = store_dir


def _entries(host: Host) -> tuple[tuple[HistoryEntry, ...], str]:
    try:
        return recovery.entries(host), ""
    except (ReconcilerError, OSError) as error:
        return (), str(error)


# --- the host itself --------------------------------------------------------------------------------------------------


def _problems(host: Host) -> Iterable[str]:
    """What makes the host unfit for any deployment."""
    for module in _lacking():
        yield f"this Python ({sys.executable}) has no {module}"
    unprivileged = host.unprivileged
    if unprivileged:
        yield unprivileged
    for path in ("/nix", "/nix/store"):
        if os.path.islink(host.path(path)):
            yield f"{path} is a link: a store cannot lie behind one"
    where = host.existing("/nix/var/nix")
    if os.statvfs(where).f_flag & os.ST_RDONLY:
        yield f"{where if host.root == '/' else '/nix/var/nix'} is on a file system that is mounted read-only"


def _lacking() -> list[str]:
    """The modules that we need and that this Python, as distributions package it, may not have."""
    from _frozen_importlib_external import PathFinder  # importlib.util takes longer to import than the search does

    return [
        module
        for module in ("sqlite3", "ctypes")
        if f"_{module}" not in sys.builtin_module_names and PathFinder.find_spec(f"_{module}") is None
    ]


def _distribution(host: Host) -> str:
    """`Debian 12`, by os-release."""
    values = {}
    for file in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(host.path(file), encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    name, _, value = line.strip().partition("=")
                    values[name] = value.strip("\"'")
            break
        except OSError:
            continue
    name = _DISTRIBUTIONS.get(values.get("ID", ""), values.get("NAME", "Linux"))
    return f"{name} {values['VERSION_ID']}" if values.get("VERSION_ID") else name


def _systemd(host: Host) -> int:
    """The version of the systemd that runs the host; 0 when none does."""
    if not os.path.isdir(host.path("/run/systemd/system")):
        return 0
    for place in _SYSTEMD:
        try:
            names = os.listdir(host.path(place))
        except OSError:
            continue
        for name in names:
            digits = name[len(_SYSTEMD_LIBRARY) :].partition(".")[0] if name.startswith(_SYSTEMD_LIBRARY) else ""
            if digits.isdigit():
                return int(digits)
    return 0


def _space(host: Host) -> os.statvfs_result:
    return os.statvfs(host.existing("/nix/store"))


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
