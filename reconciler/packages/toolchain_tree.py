"""One tree of a toolchain: the files of some Debian packages, put together in memory as they go into the store.

The tree is what lies in /usr: as in every Debian since 12, /bin, /sbin and /lib* are links into it, and what packages
have there goes where these lead. What lies anywhere else (/etc, /var) is left out, as are directories without files.

    keep, drop   patterns of paths; `*` stands for anything but a slash; a directory stands for all below it.
                 `keep` empty: everything; then what `drop` names is taken out
    links        links that maintainer scripts would have made: target, relative to the link, by path
    Links of packages become relative ones; a link that leads out of the tree is refused.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.errors import FormatError
from reconciler.core.nix import nar, nar_format
from reconciler.packages.deb_archive import Member, Parts

_INTO_USR = ("bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32")


@dataclass(frozen=True)
class Shape:
    """What of some packages goes into a tree."""

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def wants(self, path: str) -> bool:
        """Whether a path of the tree is wanted."""
        return path != "" and (not self.keep or _matches(self.keep, path)) and not _matches(self.drop, path)


def _matches(patterns: Sequence[str], path: str) -> bool:
    return _compiled(tuple(patterns)).fullmatch(path) is not None


_known: dict[tuple[str, ...], re.Pattern[str]] = {}


def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    if patterns not in _known:
        each = ("[^/]*".join(map(re.escape, pattern.split("*"))) for pattern in patterns)
        _known[patterns] = re.compile(f"(?:{'|'.join(each)})(?:/.*)?" if patterns else r"(?!)", re.DOTALL)
    return _known[patterns]


def tree(
    shape: Shape, packages: Iterable[Iterable[Member]], onto: Mapping[str, nar.Node] | None = None
) -> dict[str, nar.Node]:
    """Files and links by their path in the tree, besides those of `onto`; FormatError where two packages, or two
    paths, cannot both be."""
    found: dict[str, nar.Node] = dict(onto or {})
    for members in packages:
        for member in members:
            parts = in_usr(member.parts)
            path = "/".join(parts)
            if not shape.wants(path):
                continue
            node = _node(member, parts)
            if found.setdefault(path, node) != node:
                raise FormatError(f"two of the packages have a file {path}, and not the same", "`drop` it")
    for path, target in shape.links:
        found[path] = nar.Link(target)
    return found


def in_usr(parts: Parts) -> Parts:
    """Where a path lies below /usr; nothing when it does not."""
    if len(parts) < 2:
        return ()
    return parts[1:] if parts[0] == "usr" else parts if parts[0] in _INTO_USR else ()


def _node(member: Member, parts: Parts) -> nar.Node:
    if member.target is None:
        return nar.File(member.contents, member.executable)
    # Where it leads, from /; a chain of `..` longer than its path would lead out of /, which the kernel does not mind.
    whole = posixpath.normpath(posixpath.join("/", *member.parts[:-1], member.target))
    target = in_usr(tuple(whole.strip("/").split("/"))) if whole != "/" else ()
    if not target:
        raise FormatError(f"the link {member.shown} leads to {member.target}, out of the tree", "`drop` it")
    return nar.Link(posixpath.relpath("/".join(target), "/".join(parts[:-1]) or "."))


# --- as an archive ----------------------------------------------------------------------------------------------------


def archive(entries: Mapping[str, nar.Node]) -> Iterator[bytes]:
    """The NAR of a tree, without a copy of it; FormatError where a file is in the place of a directory."""
    yield nar_format.MAGIC
    yield from _directory(_nested(entries))


# A directory while it is put together.
_Nested = dict[str, "nar.Node | _Nested"]


def _nested(entries: Mapping[str, nar.Node]) -> _Nested:
    root: _Nested = {}
    for path, node in entries.items():
        *parents, name = path.split("/")
        place = root
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise FormatError(f"{parent} is a file or link, and the directory of {path}", "`drop` one of them")
            place = inner
        if name in place:
            raise FormatError(f"{path} is a directory of one package, and a file or link of another", "`drop` it")
        place[name] = node
    return root


def _directory(entries: _Nested) -> Iterator[bytes]:
    yield nar_format.DIRECTORY
    for name in sorted(entries, key=_bytes):
        node = entries[name]
        yield nar_format.ENTRY + nar_format.string(_bytes(name)) + nar_format.NODE
        if isinstance(node, dict):
            yield from _directory(node)
        elif isinstance(node, nar.File):
            yield nar_format.EXECUTABLE if node.executable else nar_format.REGULAR
            yield nar_format.string(node.contents)
            yield nar_format.CLOSE
        elif isinstance(node, nar.Link):
            yield nar_format.SYMLINK + nar_format.string(_bytes(node.target)) + nar_format.CLOSE
        yield nar_format.CLOSE
    yield nar_format.CLOSE


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
