"""What work on a host asks of a store: one on disk answers it (store.py), and one behind Nix's daemon (daemon.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Protocol

from reconciler.core.nix.nar_format import Reader
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo


class Index(Protocol):
    """What a probe asks: what is valid, and what it refers to."""

    def valid(self, paths: Iterable[StorePath]) -> set[StorePath]: ...

    def reachable(self, paths: Iterable[StorePath]) -> Mapping[StorePath, set[StorePath]]:
        """Those of `paths` that are valid, and all that they refer to, each with its references."""

    def close(self) -> None: ...


class Arrivals(Protocol):
    """Paths that are being added, references before referrers; they are valid, durably, after `commit`."""

    def add_nar(self, info: PathInfo, stream: Reader) -> bool:
        """Take exactly `info.nar_size` bytes of `stream`; False when the path was not added for it."""

    def commit(self) -> None: ...


class WorkingStore(Protocol):
    """Errors are StoreError, as the on-disk store tells them."""

    def real(self, path: StorePath) -> str: ...

    def nar(self, path: StorePath) -> Iterator[bytes]: ...

    def valid(self, paths: Iterable[StorePath]) -> set[StorePath]: ...

    def info(self, path: StorePath) -> PathInfo: ...

    def closure(self, paths: Iterable[StorePath]) -> list[StorePath]: ...

    def batch(self) -> Arrivals: ...

    def add_temp_root(self, path: StorePath) -> None: ...

    def add_temp_roots(self, paths: Iterable[StorePath]) -> None: ...

    def add_root(self, link: str, target: StorePath) -> None:
        """Make the link at the full physical path `link` keep `target`, durably."""

    def remove_root(self, link: str) -> bool: ...

    def add_indirect_root(self, link: str) -> object:
        """Make a link that lies anywhere, and points into the store, a root."""

    def close(self) -> None: ...

    def __enter__(self) -> WorkingStore: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
