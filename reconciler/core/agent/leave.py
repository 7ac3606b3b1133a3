"""Leaving: a host's management is undone, and the host is as it was before its first deployment.

What a profile goes back to stands in the history: the oldest `before` of each. What else was made is known by its
content (PATH files), by where it leads (/run/current-system), or from the record of what was created. Every step may be
done twice: a leave that was killed is finished by the next one, so what tells what to do goes last.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Callable

from reconciler.core import fs
from reconciler.core.activate import current_system, host_files, nixos
from reconciler.core.agent import created, lock, mounts, profiles, recovery, usage
from reconciler.core.agent.host import SYSTEM_PROFILE, Host
from reconciler.core.agent.messages import HistoryEntry, LeaveReply, LeaveRequest, LeavingProfile, LockOwner
from reconciler.core.agent.profiles import Found
from reconciler.core.errors import RefusedError, StoreError
from reconciler.core.nix.store_path import STORE_DIR
from reconciler.core.profile.names import ProfileId
from reconciler.core.profile.switching import Departure
from reconciler.core.values import value

# What all of /nix, or all that is in it, is called from one moment to the next when it goes: a leave that is killed
# while it removes that is finished by its name.
_LAST = {"/nix": "/.nix-left", "/nix/var": "/nix/.var-left"}
# A generation's link is as old as the line that tells of it, less what a clock may be off.
_CLOCK = 2.0


def leave(host: Host, request: LeaveRequest) -> LeaveReply:
    """Say what would go; without `check`, do it and say what went. RefusedError while a deployment is at work, or when
    the host has changed since it was asked."""
    host.session.host = request.host
    if not host.managed:
        return _finish(host, request.check)
    if request.check:
        return _Leaving.of(host).reply()
    host.require_privilege()
    taken = lock.take(host, LockOwner("leave", request.who, os.getpid(), time.time()))
    try:
        leaving = _Leaving.of(host)
        reply = leaving.reply()
        if reply.profiles != request.expect:
            raise RefusedError(f"{host.name} has changed since it was asked about", "leave again to see what would go")
        return leaving.run(reply)
    finally:
        taken.release()


def _finish(host: Host, check: bool) -> LeaveReply:
    """Remove what a leave that was killed at its very end has left."""
    there = tuple(path for path in _LAST.values() if host.whole and os.path.lexists(host.path(path)))
    if not check:
        for path in there:
            _remove(host, path)
    return LeaveReply(bool(there), files=there, nix=bool(there))


@value
class _Leaving:
    """What is to be done on this host."""

    host: Host
    found: tuple[Found, ...]
    profiles: tuple[LeavingProfile, ...]
    made: tuple[str, ...]

    @classmethod
    def of(cls, host: Host) -> _Leaving:
        entries = recovery.entries(host)
        named = sorted({ProfileId.parse(entry.profile) for entry in entries})
        found = tuple(profiles.find(host, profile) for profile in named)
        plans = tuple(_profile(host, one, [e for e in entries if e.profile == str(one.profile)]) for one in found)
        return cls(host, found, plans, created.new_state(host, created.read(host)))

    def reply(self) -> LeaveReply:
        staying = self._what_keeps_nix()
        files, kept = self._files()
        own = (self.host.stage_roots, self.host.state)
        ours = [path for path in own if self._there(path)] if staying else self._whole()
        made = [path for path in self.made if self._there(path) and not path.startswith("/nix") and path not in ours]
        sentences = [*kept, *([f"/nix: {staying}"] if staying else [])]
        return LeaveReply(True, self.profiles, (*files, *made, *ours), not staying, tuple(sentences))

    def _there(self, path: str) -> bool:
        return os.path.lexists(self.host.path(path))

    def _going(self) -> set[str]:
        """Every link of a profile that goes away."""
        links: set[str] = set()
        for one in self.profiles:
            links |= {os.path.join(os.path.dirname(one.link), drop) for drop in one.drops}
            links |= {one.link} if one.back is None and not one.kept else set()
        return links

    def _what_keeps_nix(self) -> str:
        """Why /nix does not go as a whole; empty when it does."""
        if "/nix/store" not in self.made:
            return (
                "it was there before the first deployment, or who made it is not recorded; unused paths in it are"
                " for a garbage collection"
            )
        staying = [one.link for one in self.profiles if one.kept or one.back is not None]
        return f"{staying[0]} stays" if staying else usage.user_of_nix(self.host, self._going())

    def _whole(self) -> list[str]:
        """All of /nix: itself, or where somebody had made an empty one before, what is in it."""
        return ["/nix"] if "/nix" in self.made else ["/nix/store", "/nix/var"]

    def _files(self) -> tuple[list[str], list[str]]:
        """The files outside of /nix that go, and sentences on those that stay."""
        goes: list[str] = []
        kept: list[str] = []
        if not self.host.whole:
            return goes, kept
        for path, state in host_files.states(self.host.root).items():
            if state is host_files.State.OURS:
                goes.append(path)
            elif state is host_files.State.CHANGED:
                kept.append(f"{path}: it was changed by hand")
        return goes + ([current_system.CURRENT] if self._runs_ours() else []), kept

    def _runs_ours(self) -> bool:
        if not self.host.whole:
            return False
        with contextlib.suppress(StoreError):
            target = current_system.raw_target(self.host.root)
            if target is None or nixos.is_host(self.host.root):
                return False
            return target == SYSTEM_PROFILE or current_system.is_ours(target, self.host.root)
        return False

    # --- doing it -----------------------------------------------------------------------------------------------------

    def run(self, reply: LeaveReply) -> LeaveReply:
        if self._runs_ours():
            current_system.deactivate(self.host.root)
        for found, plan in zip(self.found, self.profiles):
            if not found.problem:
                self._depart(found, plan)
        if self.host.whole:
            self._forget_system()
        _remove(self.host, self.host.stage_roots)
        self._remove_directories(lambda path: not path.startswith("/nix"))
        # Once more, now that what is ours is gone: somebody may have begun to use it.
        staying = usage.user_of_nix(self.host, set()) if reply.nix else ""
        nix = reply.nix and not staying
        if nix:
            self._remove_nix()
        else:
            self._remove_directories(lambda path: path.startswith("/nix/"))
            self._remove_state()
            self._remove_directories(lambda path: not path.startswith("/nix"))  # what our own folder stood in
        kept = (*reply.kept, *([f"/nix: {staying}"] if staying else []))
        return LeaveReply(True, self.profiles, reply.files, nix, kept)

    def _forget_system(self) -> None:
        """What is neither a profile nor our own, and the mount that protects the store."""
        current_system.forget_roots(self.host.root)
        found_files = host_files.states(self.host.root).items()
        host_files.remove_host_files(
            tuple(path for path, state in found_files if state is host_files.State.OURS), self.host.root
        )
        self._unprotect_store()

    def _unprotect_store(self) -> None:
        """The mount that makes a store of ours read-only goes; StoreError when it does not."""
        outside = self.host.session.outside
        if outside is not None and STORE_DIR in self.made and os.path.isdir(self.host.path(STORE_DIR)):
            mounts.unprotect(outside, self.host.path(STORE_DIR))

    def _depart(self, found: Found, plan: LeavingProfile) -> None:
        how = Departure(profiles.recorded(plan.current), profiles.recorded(plan.back), plan.drops, bool(plan.kept))
        own_home_link = found.account is not None and f"{found.account.home}/.nix-profile" in self.made
        profiles.depart(self.host, found, how, own_home_link)
        for drop in plan.drops:
            self.host.forget_root(os.path.join(os.path.dirname(plan.link), drop))

    def _remove_state(self) -> None:
        """Our own folder; what tells the next leave what to do goes last."""
        last = ("history", "created", "lock")
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.host.own_state)):
                if name not in last:
                    _remove(self.host, f"{self.host.state}/{name}")
        for name in last:
            _remove(self.host, f"{self.host.state}/{name}")
        _remove(self.host, self.host.state)

    def _remove_nix(self) -> None:
        """All of /nix: the store first, our own folder, which tells what to do, with the last."""
        for path in ("/nix/store", "/nix/var/nix"):
            _remove(self.host, path)
        last = "/nix" if "/nix" in self.made else "/nix/var"
        _remove(self.host, _LAST[last])
        os.rename(self.host.path(last), self.host.path(_LAST[last]))
        fs.fsync_directory(os.path.dirname(self.host.path(last)))
        _remove(self.host, _LAST[last])

    def _remove_directories(self, meant: Callable[[str], bool]) -> None:
        """Those directories that deployments made, the innermost first, when nothing is in them."""
        for path in reversed(self.made):
            if meant(path):
                with contextlib.suppress(OSError):
                    os.rmdir(self.host.path(path))


def _remove(host: Host, path: str) -> None:
    """A file, link or whole tree, durably; nothing when it is not there."""
    parent, name = os.path.split(host.path(path))
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(parent, fs.OPEN_DIRECTORY)
        try:
            fs.remove_tree(name, fd)
            fs.fsync_directory(fd)
        finally:
            os.close(fd)


def _profile(host: Host, found: Found, entries: list[HistoryEntry]) -> LeavingProfile:
    """What becomes of a profile that the history has these lines of, oldest first."""
    name, current = str(found.profile), found.current
    if found.problem:
        return LeavingProfile(name, found.link, current, None, kept=found.problem)
    if found.profile.is_system and nixos.is_host(host.root):
        return LeavingProfile(name, found.link, current, None, kept="a NixOS system stays, and is NixOS's again")
    before = entries[0].before
    there = [(one.number, one.path) for one in found.generations]
    still = before is not None and (before.number == 0 or (before.number, before.path) in there)
    back = before if before is not None and still and os.path.lexists(host.path(before.path)) else None
    after = {entry.after.path for entry in entries if entry.after is not None}
    ours = [
        one
        for one in found.generations
        if one.path in after
        and one.created >= entries[0].when - _CLOCK
        and (back is None or (one.number, one.path) != (back.number, back.path))
    ]
    numbers = {one.number for one in ours}
    last = entries[-1].after
    kept = ""
    if current is not None and current not in (back, last) and current.number not in numbers:
        kept = f"something else has made generation {current.number} the current one since"
        numbers.discard(current.number)
    drops = tuple(f"{os.path.basename(found.link)}-{number}-link" for number in sorted(numbers))
    return LeavingProfile(name, found.link, current, back, drops, kept)
