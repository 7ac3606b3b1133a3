"""A store behind Nix's daemon: that of a host where we are neither root nor the store's owner.

Files are read as they lie there, since every user may; all else the daemon is asked for. It takes from us what is
content-addressed, and what carries a signature by a key that it trusts, and builds what derivations say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.nar_format import Bounded, Reader
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import files, roots
from reconciler.core.store.daemon_client import Activity, DaemonClient, DaemonError
from reconciler.core.store.order import topological
from reconciler.core.store.path_info import PathInfo

SOCKET = "/nix/var/nix/daemon-socket/socket"
_PIECE = 64 * 1024
_NAMED = 3  # paths that an error names
# What every version says of a path that it does not trust us with.
_UNSIGNED = re.compile(r"lacks a (valid )?signature")
_HOW = (
    "sign them: $RECONCILER_CACHE_KEY_FILE names a key (reconciler key generate), whose public half stands in "
    "trusted-public-keys of that host's nix.conf; or --build-on target; or deploy as root: ansible_become: true"
)


class DaemonStore:
    """The store of the host whose root directory is `root`, by the daemon that serves it."""

    def __init__(self, client: DaemonClient, root: str = "/") -> None:
        self.store_dir = os.path.join(root, "nix/store")
        self._client = client

    @classmethod
    def open(cls, root: str = "/") -> DaemonStore:
        """StoreError where no daemon answers, or it does not serve us."""
        try:
            return cls(DaemonClient.connect(os.path.join(root, SOCKET.lstrip("/"))), root)
        except OSError as error:
            raise StoreError(f"the Nix daemon, {SOCKET}: {error.strerror}", "start it, or log in as root") from error

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> DaemonStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- files --------------------------------------------------------------------------------------------------------

    def real(self, path: StorePath) -> str:
        """Where the files of `path` lie."""
        return f"{self.store_dir}/{path.base_name}"

    def nar(self, path: StorePath) -> Iterator[bytes]:
        """The archive of a valid path, in chunks; StoreError when it is not valid."""
        self.info(path)
        return files.archive(self.real(path), path)

    def read_derivation(self, path: StorePath) -> Derivation:
        """The derivation in a .drv file; StoreError when it is not there."""
        return files.derivation(self.real(path), path)

    # --- questions ----------------------------------------------------------------------------------------------------

    def valid(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid."""
        return self._client.valid(paths)

    def info(self, path: StorePath) -> PathInfo:
        """What is registered of `path`; StoreError when it is not valid."""
        found = self._client.infos([path])
        if path not in found:
            raise StoreError(f"{path} is not valid in {self.store_dir}")
        return found[path]

    def reachable(self, paths: Iterable[StorePath]) -> dict[StorePath, set[StorePath]]:
        """Those of `paths` that are valid, and all that they refer to, each with its references."""
        found: dict[StorePath, set[StorePath]] = {}
        todo = set(paths)
        while todo:
            infos = self._client.infos(sorted(todo))
            found |= {path: set(info.other_references) for path, info in infos.items()}
            todo = {reference for info in infos.values() for reference in info.other_references} - found.keys()
        return found

    def closure(self, paths: Iterable[StorePath]) -> list[StorePath]:
        """`paths` and all that they refer to, references before referrers; StoreError when one is not valid."""
        wanted = list(paths)
        reachable = self.reachable(wanted)
        for path in wanted:
            if path not in reachable:
                raise StoreError(f"{path} is not valid in {self.store_dir}")
        return topological(reachable)

    # --- adding -------------------------------------------------------------------------------------------------------

    def batch(self) -> DaemonBatch:
        """Paths to be added, one after the other."""
        return DaemonBatch(self._client, self.store_dir)

    def build(
        self, outputs: Sequence[str], heard: Callable[[Activity], None], waiting: Callable[[], None] | None = None
    ) -> None:
        """See DaemonClient.build; what was built is on the disk afterwards."""
        self._client.build(outputs, heard, waiting)
        _sync(self.store_dir)

    # --- what keeps paths ---------------------------------------------------------------------------------------------

    def add_temp_root(self, path: StorePath) -> None:
        """Keep `path` while this store is open. Whether it is valid must be asked (again) afterwards."""
        self._client.add_temp_root(path)

    def add_temp_roots(self, paths: Iterable[StorePath]) -> None:
        for path in paths:
            self._client.add_temp_root(path)

    def add_root(self, link: str, target: StorePath) -> None:
        """Make the link at the path `link`, which is ours, keep `target`, durably."""
        roots.add(link, str(target))
        self._client.add_indirect_root(link)

    def remove_root(self, link: str) -> bool:
        """Remove such a link; whether it was there. A collection takes away what the daemon had made of it."""
        return roots.remove(link)

    def add_indirect_root(self, link: str) -> None:
        """Make a link that lies anywhere and points into the store a root."""
        self._client.add_indirect_root(link)


class DaemonBatch:
    """Paths on their way to the daemon. What it does not trust us with is passed over, with all that needs it, and told
    at once by `commit`."""

    def __init__(self, client: DaemonClient, store_dir: str) -> None:
        self._client = client
        self._store_dir = store_dir
        self._refused: list[PathInfo] = []
        self._lacking: set[StorePath] = set()
        self._added = False

    def add_nar(self, info: PathInfo, stream: Reader) -> bool:
        """Add the next `info.nar_size` bytes of `stream` as `info.path`; False where that cannot be. StoreError for
        anything else that the daemon has against them."""
        bounded = Bounded(stream, info.nar_size)
        pieces = iter(lambda: bounded.read(_PIECE), b"")
        if not self._lacking.isdisjoint(info.references):
            self._lacking.add(info.path)
            for _ in pieces:
                continue
            return False
        try:
            self._client.add(info, pieces)
        except DaemonError as error:
            if _UNSIGNED.search(error.message) is None:
                raise
            self._refused.append(info)
            self._lacking.add(info.path)
            return False
        self._added = True
        return True

    def commit(self) -> None:
        """StoreError that names what the daemon did not trust us with since the last one."""
        if self._added:
            _sync(self._store_dir)
        refused, self._refused, self._added = self._refused, [], False
        if refused:
            named = [_named(info) for info in refused[:_NAMED]]
            more = [f"{len(refused) - _NAMED} more"] if len(refused) > _NAMED else []
            raise StoreError(
                "its Nix daemon takes from users only what is content-addressed or signed by a key that it trusts, "
                f"and not {', '.join([*named, *more])}",
                _HOW,
            )


def _named(info: PathInfo) -> str:
    keys = sorted({signature.partition(":")[0] for signature in info.signatures})
    return f"{info.path} ({'signed by ' + ', '.join(keys) if keys else 'unsigned'})"


def _sync(directory: str) -> None:
    """The daemon registers first, and leaves it to the kernel when files reach the disk."""
    fd = os.open(directory, fs.OPEN_DIRECTORY)
    try:
        fs.syncfs(fd)
    finally:
        os.close(fd)
