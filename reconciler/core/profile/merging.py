"""Packages merged into one tree of links, as Nix's buildenv merges them.

A directory that one package alone has is one link; where two have it, it is a real one that holds links, and so on
below. Of two files the one with the lower priority is shown. Links are followed inside the store only: what leads out
of it counts as dangling.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, NamedTuple, Protocol

from reconciler.core.errors import BuildError
from reconciler.core.nix.store_path import STORE_DIR, StorePath, parse_drv_name

PROPAGATED_PRIORITY = 1000

# How the message of a CollisionError begins, also where it came over the wire as a BuildError.
COLLISION = "two packages own "

# Directory links that lead back up can make a tree without end. An archive holds no directory deeper than this; and no
# environment that anybody means has so many links.
_MAX_DEPTH = 63
_MAX_LINKS = 1_000_000

_PREFIX = STORE_DIR + "/"
_LINK_LIMIT = 40
# Useless in an environment, or there in every package of a kind, so that they would always collide.
_LEFT_OUT = (
    "/propagated-build-inputs",
    "/nix-support",
    "/perllocal.pod",
    "/info/dir",
    "/log",
    "/manifest.nix",
    "/manifest.json",
)


class StoreView(Protocol):
    """What the builder needs of a store: where its /nix/store really is."""

    @property
    def store_dir(self) -> str: ...


class CollisionError(BuildError):
    """Two packages hold one file and nothing says whose is meant.

    `file` is relative to the environment; `priority` is the one that both have, None where a priority could not help
    (a file here, a directory there).
    """

    def __init__(self, file: str, first: StorePath, second: StorePath, priority: int | None) -> None:
        self.file = file
        self.first = first
        self.second = second
        self.priority = priority
        names = f"{label(first)} and {label(second)}"
        if priority is None:
            super().__init__(
                f"{COLLISION}{file}, one as a file and one as a directory: {names}",
                "leave one of them out: no priority joins a file and a directory",
            )
        else:
            name, version = parse_drv_name(first.name)
            reference = f"{name}@{version}" if version else name
            super().__init__(
                f"{COLLISION}{file}: {names}\nequal priority {priority}",
                f"- {reference}: {{priority: {priority - 1}}}      lower wins; both stay installed",
            )


def label(path: StorePath) -> str:
    """A package as a collision names it: `gcc 13.2`."""
    name, version = parse_drv_name(path.name)
    return f"{name} {version}" if version else name


# --- the tree ---------------------------------------------------------------------------------------------------------


class Sources:
    """A store's files under their logical paths. Links are followed inside the store only. A path is canonical when no
    link is left in it."""

    def __init__(self, store_dir: str) -> None:
        self._store_dir = store_dir

    def real(self, logical: str) -> str:
        return f"{self._store_dir}/{logical[len(_PREFIX) :]}"

    def entries(self, directory: str) -> list[tuple[str, bool, bool]]:
        """What a canonical directory holds, by name: (name, a directory, a link)."""
        with os.scandir(self.real(directory)) as found:
            return sorted((each.name, each.is_dir(follow_symlinks=False), each.is_symlink()) for each in found)

    def is_directory(self, canonical: str) -> bool:
        return self._format(canonical) == stat.S_IFDIR

    def canonical(self, logical: str) -> str | None:
        """`logical` with every link in it followed; None when it leads nowhere, or out of the store."""
        return self._follow([], _components(logical[len(_PREFIX) :]))

    def behind(self, directory: str, name: str) -> str | None:
        """The same of an entry of a canonical directory."""
        return self._follow(directory[len(_PREFIX) :].split("/"), [name])

    def _follow(self, done: list[str], todo: list[str]) -> str | None:
        """From `done`, which is canonical, through `todo`, the last component first."""
        links = 0
        while todo:
            name = todo.pop()
            if name == "..":
                if not done:
                    return None
                done.pop()
                continue
            path = _PREFIX + "/".join([*done, name])
            kind = self._format(path)
            if kind is None:
                return None
            if kind != stat.S_IFLNK:
                done.append(name)
                continue
            links += 1
            if links > _LINK_LIMIT:
                raise BuildError(f"{path}: {os.strerror(errno.ELOOP)}")
            target = os.readlink(self.real(path))
            if target.startswith("/"):
                if not target.startswith(_PREFIX):
                    return None
                done, target = [], target[len(_PREFIX) :]
            todo += _components(target)
        return _PREFIX + "/".join(done) if done else None

    def _format(self, logical: str) -> int | None:
        try:
            return stat.S_IFMT(os.lstat(self.real(logical)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _components(path: str) -> list[str]:
    """Last component first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


class Link(NamedTuple):
    """A link of the environment: where it leads, what is there, and whose it is. (No `value`: there are thousands.)"""

    source: str
    canonical: str
    is_directory: bool
    package: StorePath
    priority: int


class Tree:
    """An environment while it grows, in memory. Paths here are relative to it; sources are logical store paths."""

    def __init__(self, sources: Sources, warn: Callable[[str], None]) -> None:
        self._sources = sources
        self._warn = warn
        self.links: dict[str, Link] = {}
        self.directories: dict[str, StorePath] = {}  # the real ones, and who had each first
        self._done: set[StorePath] = set()
        self._postponed: set[StorePath] = set()

    def add(self, package: StorePath, priority: int) -> None:
        if package in self._done:
            return
        self._done.add(package)
        canonical = self._sources.canonical(str(package))
        if canonical is None:
            raise BuildError(f"{package} is not in the store")
        if not self._sources.is_directory(canonical):
            self._warn(f"{package} is not a directory: left out of the environment")
            return
        self._merge(Link(str(package), canonical, True, package, priority), "")
        listed = self._sources.canonical(f"{package}/nix-support/propagated-user-env-packages")
        if listed is not None:
            with open(self._sources.real(listed), encoding="utf-8", errors="surrogateescape") as file:
                words = file.read().replace("\n", " ").split(" ")
            self._postponed |= {StorePath.parse(word) for word in words if word} - self._done

    def add_propagated(self) -> None:
        """What packages bring along, breadth first, after everything that was asked for by name."""
        priority = PROPAGATED_PRIORITY
        while self._postponed:
            level, self._postponed = self._postponed, set()
            for package in sorted(level):
                self.add(package, priority)
                priority += 1

    def write(self, out: str) -> None:
        """Make it, as a new directory or in one that is empty."""
        os.makedirs(out, exist_ok=True)
        for directory in sorted(self.directories):  # what holds a directory comes before it
            os.mkdir(f"{out}/{directory}")
        for file, link in self.links.items():
            os.symlink(link.source, f"{out}/{file}")

    def _merge(self, top: Link, below: str) -> None:
        """Link what the directory `top` holds into the directory `below` (which ends with a slash) of the tree."""
        for name, is_directory, is_link in self._sources.entries(top.canonical):
            source = f"{top.source}/{name}"
            if name.startswith(".") or source.endswith(_LEFT_OUT):
                continue
            if not is_link:
                link = Link(source, f"{top.canonical}/{name}", is_directory, top.package, top.priority)
            elif (behind := self._sources.behind(top.canonical, name)) is not None:
                link = Link(source, behind, self._sources.is_directory(behind), top.package, top.priority)
            else:
                self._warn(f"{source} is a dangling link: left out of the environment")
                continue
            self._place(link, f"{below}{name}")

    def _place(self, link: Link, file: str) -> None:
        present = self.links.get(file)
        if present is None and file not in self.directories:
            if file.count("/") > _MAX_DEPTH or len(self.links) > _MAX_LINKS:
                raise _endless(file, link.package)
            self.links[file] = link
        elif link.is_directory:
            if present is not None:
                self._open_up(file, present, link)
            self._merge(link, f"{file}/")
        elif present is None:
            raise CollisionError(file, self.directories[file], link.package, None)
        elif present.priority == link.priority:
            raise CollisionError(file, present.package, link.package, link.priority)
        elif present.priority > link.priority:
            self.links[file] = link

    def _open_up(self, file: str, present: Link, link: Link) -> None:
        """Put a real directory, with its entries linked one by one, where one link led to a whole directory."""
        if not present.is_directory:
            raise CollisionError(file, present.package, link.package, None)
        del self.links[file]
        self.directories[file] = present.package
        self._merge(present._replace(source=present.canonical), f"{file}/")


def _endless(file: str, package: StorePath) -> BuildError:
    return BuildError(
        f"an environment with {label(package)} does not end: its directories go in a circle at {file[:60]}",
        f"a link in {package} leads to a directory above it, and another package has that directory too",
    )
