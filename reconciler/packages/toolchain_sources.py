"""From a pinned toolchain to its store paths: fetched, put together, checked against the pinned hash."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import BuildError, FormatError
from reconciler.core.fs import FileLock
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import content_address
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.packages import deb_archive, debs
from reconciler.packages.deb_archive import Member
from reconciler.packages.downloads import cache_directory, is_kept
from reconciler.packages.toolchain import Toolchain, Tree
from reconciler.packages.toolchain_tree import Shape, archive, in_usr, tree

_UNWRAPPED = ".unwrapped"
_SEEN_AS = "/usr"

# What goes into a tree, and the packages that it comes from.
Layer = tuple[Shape, Sequence[Path]]


@dataclass(frozen=True)
class ToolchainSource:
    """One tree of a toolchain."""

    toolchain: Toolchain
    tree: Tree

    @property
    def path(self) -> StorePath:
        return self.tree.path

    def add_to(self, store: Store) -> None:
        """StoreError when a package cannot be had, BuildError when the tree is not the one that was pinned."""
        if store.is_valid(self.path):
            return
        for other in sources(self.toolchain):
            if other.path in self.tree.references:
                other.add_to(store)
        kept = self._archive()
        ca = content_address.recursive(self.tree.nar_hash)
        info = PathInfo(self.path, self.tree.nar_hash, kept.stat().st_size, self.tree.references, ca=ca)
        with kept.open("rb") as stream:
            store.add_nar(info, stream)

    def _archive(self) -> Path:
        """The NAR, kept in the cache: putting it together takes much longer than reading it."""
        kept = cache_directory() / "toolchains" / f"{self.tree.nar_hash.base16}.nar"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(kept.parent.with_suffix(".lock"))):  # who waits finds it made
            if not is_kept(kept, self.tree.nar_hash):
                self._make(kept)
        return kept

    def _make(self, kept: Path) -> None:
        entries = assembled(layers(self.tree), self._wrapped)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            try:
                self._check(_written(entries, file.write))
                Path(file.name).replace(kept)
            except BaseException:
                Path(file.name).unlink()
                raise

    def _check(self, found: Hash) -> None:
        if found != self.tree.nar_hash:
            raise BuildError(
                f"the tree {self.path.name} is not what its definition says\n"
                f"  wanted  {self.tree.nar_hash.base16}\n  found   {found.base16}",
                hint="where packages or patterns were changed on purpose: reconciler packages toolchain "
                f"{self.toolchain.name}",
            )

    @property
    def _wrapped(self) -> dict[str, str]:
        if self.tree is not self.toolchain.tools:
            return {}
        return dict.fromkeys(self.toolchain.linkers, self.toolchain.wrapper)


def sources(toolchain: Toolchain) -> tuple[ToolchainSource, ...]:
    """The store paths of a toolchain, references first."""
    return tuple(ToolchainSource(toolchain, each) for each in toolchain.trees)


def layers(made: Tree) -> tuple[Layer, ...]:
    """What a tree is put together from, the lowest first; its packages are fetched."""
    return (*(layers(made.base) if made.base else ()), (made.shape, debs.fetch(made.debs)))


def assembled(parts: Sequence[Layer], wrapped: dict[str, str]) -> dict[str, nar.Node]:
    """The tree of some packages; `wrapped`: by path of a linker, the text that takes its place."""
    entries: dict[str, nar.Node] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decompressing is most of the work, and lets others run
        for shape, files in parts:
            entries = tree(shape, pool.map(functools.partial(wanted, shape), files), entries)
    for path, text in wrapped.items():
        node = entries.get(path)
        if not isinstance(node, nar.File):
            raise FormatError(f"the linker {path} is no file of the tree", "`linkers` names files, not links to them")
        entries[path + _UNWRAPPED] = node
        script = text.replace("LINKER", f"{_SEEN_AS}/{path}{_UNWRAPPED}")
        entries[path] = nar.File(script.encode(), executable=True)
    return entries


def wanted(shape: Shape, file: Path) -> list[Member]:
    """The files of a package that go into a tree: all others are forgotten at once."""
    return [member for member in deb_archive.read(file) if shape.wants("/".join(in_usr(member.parts)))]


def measured(entries: dict[str, nar.Node]) -> Hash:
    """The hash of the NAR of a tree."""
    return _written(entries, lambda _: None)


def _written(entries: dict[str, nar.Node], write: Callable[[bytes], object]) -> Hash:
    """Write the NAR of a tree; its hash."""
    state = hashlib.sha256()
    for chunk in archive(entries):
        state.update(chunk)
        write(chunk)
    return Hash("sha256", state.digest())
