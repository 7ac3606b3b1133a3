"""Switching: all of a deployment's profiles on this host change, or none does.

1  every profile is what the plan saw, and what it is to become is whole     else refused, nothing changed
2  what is about to be done is written down                                  (recovery)
3  PATH files; /run/current-system; each profile by one rename               undone, last first, when one fails
4  one line of history for each profile
5  the stage's roots are freed
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Callable

from reconciler.core.activate import current_system, host_files, nixos
from reconciler.core.agent import created, history, lock, mounts, profiles, recovery, stage
from reconciler.core.agent.action import Action
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import (
    GenerationRef,
    HistoryEntry,
    ProfileChange,
    Switched,
    SwitchReply,
    SwitchRequest,
)
from reconciler.core.agent.nixos_switch import NixosSwitch
from reconciler.core.agent.profiles import Found
from reconciler.core.errors import FormatError, ReconcilerError, RefusedError, RevertedError, StoreError, UnsettledError
from reconciler.core.nix.store_path import STORE_DIR, StorePath
from reconciler.core.profile import places
from reconciler.core.profile.names import ProfileId
from reconciler.core.profile.switching import Step
from reconciler.core.values import field, value

if TYPE_CHECKING:
    from reconciler.core.store.working import WorkingStore


@value
class _Change:
    """One wanted change beside what was found."""

    wanted: ProfileChange
    found: Found

    @property
    def is_none(self) -> bool:
        """Whether the profile is already what is wanted."""
        current = self.found.current
        if not self.wanted.to:
            return current is None
        return current is not None and current.path == self.wanted.to and self.wanted.number in (0, current.number)


def switch(host: Host, request: SwitchRequest) -> SwitchReply:
    """Make all changes of the request. RefusedError when the host has changed since the plan; any other error too
    leaves every profile as it was, unless its message says otherwise."""
    lock.require(host, request.deployment)
    action = _action(request.action)
    changes = tuple(_Change(wanted, profiles.find(host, ProfileId.parse(wanted.profile))) for wanted in request.changes)
    for change in changes:
        host.require_mine(change.found.profile)
        if change.found.problem:
            raise StoreError(f"{change.found.profile.label}: {change.found.problem}")
    _check_expected(host, changes)
    with host.open_store() as store:
        for change in changes:
            _check_target(host, store, change)
        return SwitchReply(_Switch(host, store, request, action).run(changes))


def _action(text: str) -> Action:
    try:
        action = Action(text)
    except ValueError:
        raise FormatError(f"'{text}' is no action") from None
    if not action.switches:
        raise FormatError(f"the action '{text}' switches nothing")
    return action


# --- 1: is it still what the plan saw? --------------------------------------------------------------------------------


def _check_expected(host: Host, changes: tuple[_Change, ...]) -> None:
    moved = [change for change in changes if change.found.current != change.wanted.expect]
    if not moved:
        return
    entries = recovery.entries(host)
    parts, deployments = [], []
    for change in moved:
        last = history.latest(entries, change.wanted.profile)
        if last is not None and last.after != change.found.current:
            last = None
        deployments += [last.deployment] if last is not None else []
        parts.append(f"{_was_and_is(change)} ({_by_whom(last)})")
    look = f"reconciler history {deployments[0]}; then deploy" if deployments else "deploy"
    raise RefusedError(
        f"{host.name} has changed since the plan: {'; '.join(parts)}", f"{look} again to see a fresh plan"
    )


def _was_and_is(change: _Change) -> str:
    was, now = change.wanted.expect, change.found.current
    label = change.found.profile.label
    if was is not None and now is not None and was.number == now.number:
        return f"{label} was {was.number} ({was.path}), is another {now.number} ({now.path})"
    return f"{label} was {_number(was)}, is {_number(now)}"


def _number(one: GenerationRef | None) -> str:
    return "not there" if one is None else str(one.number)


def _by_whom(entry: HistoryEntry | None) -> str:
    if entry is None:
        return "not by the reconciler"
    message = f" '{entry.message}'" if entry.message else ""
    return f"{entry.who}, {_ago(time.time() - entry.when)} ago, {entry.deployment}{message}"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def _check_target(host: Host, store: WorkingStore, change: _Change) -> None:
    wanted = change.wanted
    if not wanted.to:
        if change.found.profile.is_system and nixos.is_host(host.root):
            raise RefusedError(f"{host.name} runs NixOS: its system is not taken away, only replaced")
        return
    path = StorePath.parse(wanted.to)
    stage.check_closures(store, [path])
    if change.found.profile.is_system:
        current_system.check(path, host.root, profiles.was_there(change.found, wanted.to))
    if wanted.number and not any(
        one.number == wanted.number and one.path == wanted.to for one in change.found.generations
    ):
        raise RefusedError(
            f"{host.name}: {change.found.profile.label} has no generation {wanted.number} that is {wanted.to}",
            "reconciler generations shows what there is",
        )


# --- 2 to 5 -----------------------------------------------------------------------------------------------------------


@value(frozen=False)
class _Switch:
    host: Host
    store: WorkingStore
    request: SwitchRequest
    action: Action
    # One time for what is intended and what is told, so that recovery knows the one by the other.
    when: float = field(default_factory=time.time)
    undoing: list[Callable[[], None]] = field(default_factory=list)
    system: NixosSwitch | None = None  # there once the system of a NixOS host is being switched

    def run(self, changes: tuple[_Change, ...]) -> tuple[Switched, ...]:
        made = [change for change in changes if self.action.sets_profile and not change.is_none]
        if made:
            recovery.intend(self.host, [self._entry(change, self._intended(change)) for change in made])
        try:
            if not nixos.is_host(self.host.root):  # which has PATH, and whatever else these are for
                self._install_host_files()
                self._protect_store()
            for change in changes:
                if change.found.profile.is_system:
                    self._activate(change)
            switched = [self._change(change, change in made) for change in changes]
            if self.system is not None:
                self.system.have_booted()
            self._tell(switched, made)
        except BaseException as error:
            self._undo(error)
            if self._activated and isinstance(error, ReconcilerError):
                raise RevertedError(error.message, error.hint) from error
            raise
        self._tidy(changes)
        return tuple(switched)

    @property
    def _activated(self) -> bool:
        return self.system is not None and self.system.activated

    def _tidy(self, changes: tuple[_Change, ...]) -> None:
        """Take away what is only needed until the history tells it. The switch stands: what cannot be taken away now
        (a broken disk) says the same as the history does, and the next deployment takes it away."""
        if self.system is not None:
            self.system.done()
        with contextlib.suppress(OSError):
            recovery.done(self.host)
        for change in changes:
            with contextlib.suppress(OSError):
                stage.free(self.host, self.store, change.wanted.profile)

    def _undo(self, error: BaseException) -> None:
        failed = []
        for step in reversed(self.undoing):
            try:
                step()
            except Exception as another:  # the other steps must be undone all the same
                failed.append(str(another))
        if failed:
            # The record of what was intended stays: the next deployment finds out what came of it.
            kind = UnsettledError if self._activated else StoreError
            raise kind(f"{error}; and it could not be undone: {'; '.join(failed)}") from error
        if self.system is not None:
            self.system.undone()
        with contextlib.suppress(OSError):
            recovery.done(self.host)

    def _install_host_files(self) -> None:
        if os.geteuid() != 0 and not os.access(self.host.path("/etc"), os.W_OK):
            return  # the owner of a store that is not root's; PATH is for the owner to set
        ours = created.made_store(self.host)
        self._note_directories(ours)
        made = host_files.install_host_files(self.host.root, ours).created
        self.undoing.append(lambda: host_files.remove_host_files(made, self.host.root))

    def _note_directories(self, ours: bool) -> None:
        root = self.host.root
        for path, file in host_files.host_files().items():
            if file.belongs(root, ours):
                created.note(self.host, places.missing_directories(path, root))

    def _protect_store(self) -> None:
        """A store that is ours is read-only for the host, where that can be had: in some containers it cannot."""
        outside = self.host.session.outside
        if outside is None or self.host.root != "/" or not created.made_store(self.host):
            return
        try:
            made = mounts.protect(outside, self.host.path(STORE_DIR))
        except StoreError as error:
            print(error.message, file=sys.stderr)
            return
        if made:
            self.undoing.append(lambda: mounts.unprotect(outside, self.host.path(STORE_DIR)))

    def _put_to_work(self, toplevel: str) -> None:
        """Make /run/current-system what it is to be, or at least keep it what it is while the profile changes."""
        root = self.host.root
        before = current_system.raw_target(root)
        self.undoing.append(lambda: self._run_again(before))
        if not self.action.activates:
            current_system.pin(root)
        elif toplevel and current_system.is_ours(toplevel, root):
            if before != toplevel:
                current_system.activate(toplevel, root)
        else:
            current_system.deactivate(root)

    def _run_again(self, target: str | None) -> None:
        if target is None:
            current_system.deactivate(self.host.root)
        elif current_system.raw_target(self.host.root) != target:
            current_system.activate(target, self.host.root)

    def _activate(self, change: _Change) -> None:
        if not nixos.is_host(self.host.root):
            self._put_to_work(change.wanted.to)
            return
        before = change.found.current
        self.system = NixosSwitch(self.host, self.action, before.path if before else "", change.wanted.to, self.undoing)
        self.system.activate()

    def _change(self, change: _Change, wanted: bool) -> Switched:
        found = change.found
        if not wanted:
            return Switched(change.wanted.profile, found.current, found.current, False)
        step = Step(profiles.recorded(found.current), change.wanted.to, change.wanted.number)
        # Before it is done, since whoever does it may die after doing it.
        self.undoing.append(lambda: profiles.restore(self.host, found, step))
        try:
            applied = profiles.change(self.host, self.store, found, step)
        except RefusedError:
            self.undoing.pop()  # nothing was done, and what is there is somebody else's
            raise
        return Switched(change.wanted.profile, found.current, profiles.reference(applied.after), applied.created)

    def _tell(self, switched: list[Switched], made: list[_Change]) -> None:
        after = {one.profile: one.after for one in switched}
        entries = [self._entry(change, after[change.wanted.profile]) for change in made]
        if entries:
            history.append(self.host.history, entries)

    def _intended(self, change: _Change) -> GenerationRef | None:
        return GenerationRef(change.wanted.number, change.wanted.to) if change.wanted.to else None

    def _entry(self, change: _Change, after: GenerationRef | None) -> HistoryEntry:
        request = self.request
        return HistoryEntry(
            deployment=request.deployment,
            kind=request.kind,
            who=request.who,
            when=self.when,
            message=request.message,
            profile=change.wanted.profile,
            before=change.found.current,
            after=after,
            undoes=request.undoes,
        )
