"""Generations of a profile: numbered links beside it, and one link that says which of them is current.

    NAME             -> NAME-<n>-link          the profile; switched by one rename
    NAME-<n>-link    -> /nix/store/...         one generation; its mtime is when it was made
    NAME.lock        held (flock) while links change, as nix-env does

Numbers are Nix's (src/libstore/profiles.cc): whatever begins `NAME-<unsigned number>-link` counts, odd names too; a
new generation is the highest number + 1, gaps are never filled and the current one does not matter; when the highest
already leads to the wanted path, that one is used again. Everything here works on the descriptor of the profile's
directory, so that it can be done in a directory that belongs to somebody else.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import RefusedError, StoreError
from reconciler.core.values import value

if TYPE_CHECKING:  # a probe reads profiles and has no need of a database
    from reconciler.core.store.store import Store

_NUMBER = re.compile(r"\+?[0-9]+", re.ASCII)
_HIGHEST_NUMBER = 2**32 - 1
_LOCK_PATIENCE = 30.0


@value
class Recorded:
    """A generation as it is remembered: its number and its store path. A profile that leads to a store path
    without a generation has number 0; one whose generation link is gone has an empty path."""

    number: int
    path: str


@value
class Generation:
    """One generation link. `created` is its mtime, `link` its name in the profile's directory."""

    number: int
    path: str
    created: float
    current: bool
    link: str

    @property
    def recorded(self) -> Recorded:
        return Recorded(self.number, self.path)


def generation_number(profile: str, name: str) -> int | None:
    """The number that Nix reads from the file name `name` for the profile called `profile`; None when it reads none."""
    if not name.startswith(profile + "-"):
        return None
    number, link, _ = name[len(profile) + 1 :].partition("-link")
    if not link or not _NUMBER.fullmatch(number) or int(number) > _HIGHEST_NUMBER:
        return None
    return int(number)


class Generations:
    """The generations of the profile `name` in the directory open as `directory`; `shown` names it in errors."""

    def __init__(self, directory: int, name: str, shown: str) -> None:
        self.directory = directory
        self.name = name
        self.shown = shown

    def list(self) -> list[Generation]:
        """All of them, lowest number first; of two links with one number, the plainly named one last."""
        current = self._current_link()
        found = []
        for name in os.listdir(self.directory):
            number = generation_number(self.name, name)
            if number is None:
                continue
            with contextlib.suppress(FileNotFoundError):  # somebody else deletes generations meanwhile
                status = os.lstat(name, dir_fd=self.directory)
                path = self._readlink(name) or ""
                found.append(Generation(number, path, status.st_mtime, name == current, name))
        return sorted(found, key=lambda one: (one.number, one.link == self._link(one.number), one.link))

    def current(self) -> Recorded | None:
        """What the profile is; None when there is no such profile. StoreError when it is not a link."""
        target = self._profile_target()
        if target is None:
            return None
        name = self._own_link(target)
        if name is None:
            return Recorded(0, target)
        return Recorded(generation_number(self.name, name) or 0, self._readlink(name) or "")

    def highest(self) -> int:
        """The highest number in use, 0 when there is no generation."""
        generations = self.list()
        return generations[-1].number if generations else 0

    def record(self, path: str) -> tuple[int, bool]:
        """The generation of the store path `path` by Nix's rule: its number, and whether its link was made now.

        Does not switch to it. Durable.
        """
        generations = self.list()
        number = 0
        if generations:
            last = generations[-1]
            if not last.path:
                raise StoreError(f"{self._beside(last.link)} is not a link", "move it away: it blocks the next number")
            if last.path == path:
                return last.number, False
            number = last.number
        os.symlink(path, self._link(number + 1), dir_fd=self.directory)
        fs.fsync_directory(self.directory)
        return number + 1, True

    def switch(self, number: int) -> None:
        """Make the generation `number` the current one by one rename. StoreError when there is none."""
        links = [one.link for one in self.list() if one.number == number]
        if not links:
            raise StoreError(f"{self.shown} has no generation {number}")
        self.point_at(links[-1])

    def point_at(self, target: str) -> None:
        """Make the profile a link to exactly `target`. Durable. To be called under the profile's lock."""
        fs.remove_temporaries(self.directory, (self.name,))
        fs.replace_symlink(target, self.name, dir_fd=self.directory)

    def remove_link(self) -> None:
        """Take the profile away and keep its generations. Durable; nothing when there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.directory)
        fs.fsync_directory(self.directory)

    def forget(self, link: str) -> None:
        """Take away the link of a generation that was only just made, for a switch that did not come about."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link, dir_fd=self.directory)
        fs.fsync_directory(self.directory)

    def find(self, number: int, path: str) -> Generation | None:
        """The recorded generation with this number *and* this path."""
        matching = [one for one in self.list() if one.number == number and one.path == path]
        return matching[-1] if matching else None

    def rollback_target(self) -> Recorded:
        """Where Nix's --rollback leads: the highest number below the current one. StoreError when there is none."""
        current = self.current()
        older = [one for one in self.list() if current is not None and 0 <= one.number < current.number]
        if not older:
            raise StoreError(f"{self.shown} has no generation older than the current one")
        return older[-1].recorded

    def raw_target(self) -> str | None:
        """The text of the profile's link, for putting back exactly what was there."""
        return self._profile_target(absolute=False)

    @contextlib.contextmanager
    def locked(self, patience: float = _LOCK_PATIENCE) -> Iterator[None]:
        """Hold nix-env's lock of this profile. RefusedError when another process keeps it for `patience` seconds."""
        fd = self._take_lock(time.monotonic() + patience)
        try:
            yield
        finally:
            # Unlink before the mark: who waits for this very file then sees that it is stale and opens a new one.
            with contextlib.suppress(OSError):
                os.unlink(self._lock_name, dir_fd=self.directory)
                fs.write_all(fd, b"d")
            os.close(fd)

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _lock_name(self) -> str:
        return f"{self.name}.lock"

    def _take_lock(self, until: float) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            fd = os.open(self._lock_name, flags, 0o600, dir_fd=self.directory)
            if fs.flock(fd, exclusive=True, wait=False) and os.fstat(fd).st_size == 0:
                return fd
            os.close(fd)
            if time.monotonic() >= until:
                raise RefusedError(f"{self.shown} is locked by another process, such as nix-env", "try again")
            time.sleep(0.02)

    def _link(self, number: int) -> str:
        return f"{self.name}-{number}-link"

    def _beside(self, name: str) -> str:
        return os.path.join(os.path.dirname(self.shown), name)

    def _readlink(self, name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=self.directory)
        except OSError:
            return None

    def _profile_target(self, absolute: bool = True) -> str | None:
        try:
            target = os.readlink(self.name, dir_fd=self.directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.shown} is not a link: {error.strerror}", "move it away, then try again") from error
        if absolute and not target.startswith("/") and self._own_link(target) is None:
            return os.path.normpath(os.path.join(os.path.dirname(self.shown), target))
        return target

    def _current_link(self) -> str | None:
        target = self._profile_target()
        return None if target is None else self._own_link(target)

    def _own_link(self, target: str) -> str | None:
        """The generation's name in this directory when `target` is one, however it is spelled."""
        directory, name = os.path.split(target)
        if directory not in ("", ".", os.path.dirname(self.shown)) or generation_number(self.name, name) is None:
            return None
        return name


class Profile:
    """A profile whose directory is root's own (the system's): `link` is the path of its link, opened at each call.

    Generation links outside /nix/var/nix/profiles become roots of the garbage collector in their own right.
    """

    def __init__(self, link: str, store: Store | None) -> None:
        self.link = link
        self._store = store

    @contextlib.contextmanager
    def open(self, create: bool = False) -> Iterator[Generations]:
        """The generations on a descriptor of the directory. FileNotFoundError without one, unless `create`."""
        parent, name = os.path.split(self.link)
        if create:
            fs.ensure_directory(parent)
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield Generations(directory, name, self.link)
        finally:
            os.close(directory)

    def list(self) -> list[Generation]:
        try:
            with self.open() as generations:
                return generations.list()
        except FileNotFoundError:
            return []

    def current(self) -> Recorded | None:
        try:
            with self.open() as generations:
                return generations.current()
        except FileNotFoundError:
            return None

    def highest(self) -> int:
        return max((one.number for one in self.list()), default=0)

    def record(self, path: str) -> tuple[int, bool]:
        """See Generations.record; the directory is made when it is missing."""
        with self.open(create=True) as generations:
            number, created = generations.record(path)
        if created:
            self._root(f"{self.link}-{number}-link")
        return number, created

    def switch(self, number: int) -> None:
        with self.open() as generations, generations.locked():
            generations.switch(number)

    def remove_link(self) -> None:
        with self.open() as generations, generations.locked():
            generations.remove_link()

    def rollback_target(self) -> Recorded:
        with self.open() as generations:
            return generations.rollback_target()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        with self.open(create=True) as generations, generations.locked():
            yield

    def _root(self, link: str) -> None:
        if self._store is not None and needs_own_root(link, self._store.state_dir):
            self._store.add_indirect_root(link)


def needs_own_root(link: str, state_dir: str) -> bool:
    """Whether the collector finds the generation link `link` only through a root of its own.

    It looks through the profiles and gcroots folders of `state_dir`; Nix's other places need a link in gcroots/auto.
    """
    return not any(link.startswith(os.path.join(state_dir, folder) + "/") for folder in ("profiles", "gcroots"))
