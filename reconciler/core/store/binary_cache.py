"""Binary caches, read: what a cache says of a path, whether that is to be believed, and its archive.

    URL/nix-cache-info            of which store it is, and its priority
    URL/<hash part>.narinfo       one path
    URL/<the narinfo's URL>       its archive, compressed

A path is believed when the fields that Nix signs (StorePath, NarHash, NarSize, References) carry a signature of a
trusted key, or when it follows from its contents by the rule that CA names. FileHash and FileSize are checked where
they are given, and nothing rests on them. The archive that is handed out has been checked before its last byte is: who
reads to its end has read the right one, whole.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, TypeVar

from reconciler.core.errors import FormatError, ReconcilerError, StoreError
from reconciler.core.nix import narinfo as narinfos
from reconciler.core.nix.nar_format import CHUNK
from reconciler.core.nix.narinfo import CacheInfo, NarInfo
from reconciler.core.nix.signature import PublicKey
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import compression
from reconciler.core.store.cache_archive import Archive, File, check_sizes
from reconciler.core.store.cache_memory import Memory
from reconciler.core.store.cache_places import Place, Site, place
from reconciler.core.store.cache_trust import check_trust
from reconciler.core.store.compression import CutShortError
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.web import Patience, WebError, again
from reconciler.core.values import value

__all__ = ["CACHE_INFO", "DEFAULT_PRIORITY", "Archive", "BinaryCache", "Caches", "Offer"]

T = TypeVar("T")

CACHE_INFO = "nix-cache-info"
DEFAULT_PRIORITY = 50  # Nix's, of a cache that names none; the lower, the earlier


@value
class Answer:
    """What a cache said of a path; None where it did not have it."""

    narinfo: NarInfo | None


class BinaryCache:
    """One cache, at an http, https or file URL. Safe for several threads; `close` when done.

    `keys` are those trusted for it. `priority` stands above what the cache says of itself. A user and password in the
    URL go to the server and are not shown: `str()` is the URL without them. `memory` keeps what a web server said.
    UsageError for another URL.
    """

    def __init__(
        self,
        url: str,
        keys: Sequence[PublicKey] = (),
        priority: int | None = None,
        patience: Patience | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.keys = tuple(keys)
        self.patience = patience or Patience()
        self._priority = priority
        self._place: Place = place(url, self.patience)
        self._memory = memory if isinstance(self._place, Site) else None  # a disk is asked again as fast
        self._info: CacheInfo | None = None
        self._guard = threading.Lock()

    def __str__(self) -> str:
        return str(self._place)

    @property
    def public_url(self) -> str | None:
        """Where another machine can ask it; None where only this one can."""
        return self._place.public

    @property
    def priority(self) -> int:
        """The lower, the earlier it is asked. Asks the cache when none was given."""
        if self._priority is not None:
            return self._priority
        said = self.info().priority
        return DEFAULT_PRIORITY if said is None else said

    def info(self) -> CacheInfo:
        """What the cache says of itself; FormatError when it is of another store, StoreError when it is no cache."""
        with self._guard:
            if self._info is None:
                data = self._small(CACHE_INFO, narinfos.MAX_CACHE_INFO_SIZE)
                if data is None:
                    raise StoreError(f"{self}: it is no binary cache: there is no {CACHE_INFO}")
                self._info = narinfos.parse_cache_info(data, self._place.shown(CACHE_INFO))
            return self._info

    def narinfo(self, path: StorePath) -> NarInfo | None:
        """What the cache says of `path`, and is to be believed; None when it does not have it.

        StoreError or FormatError, which name file and field, when it is not to be believed or cannot be used.
        """
        self.info()
        data = self._small(f"{path.hash_part}.narinfo", narinfos.MAX_SIZE)
        found = None if data is None else self._believed(data, path)
        if self._memory is not None:
            self._memory.keep(str(self), path.hash_part, data)
        return found

    def recalled(self, path: StorePath) -> Answer | None:
        """What it said of `path` in an earlier run, if that would be believed now; None where nothing is known."""
        said = self._memory.recall(str(self), path.hash_part) if self._memory is not None else None
        if said is None or said.data is None:
            return None if said is None else Answer(None)
        try:
            return Answer(self._believed(said.data, path))
        except ReconcilerError:
            return None

    def _believed(self, data: bytes, path: StorePath) -> NarInfo:
        shown = self._place.shown(f"{path.hash_part}.narinfo")
        found = narinfos.parse(data, shown, path.hash_part)
        if found.path != path:
            raise FormatError(f"{shown}: StorePath: {found.path} is not {path}, which was asked for")
        with _named(shown):
            check_trust(found, self.keys)
            check_sizes(found)
            compression.check(found.compression)
        return found

    def open_nar(self, narinfo: NarInfo) -> Archive:
        """The archive of what `narinfo` describes. One attempt: WebError or CutShortError when it fails in a way that
        may pass. To be closed."""
        shown = self._place.shown(narinfo.url)
        file = self._place.open(narinfo.url, small=False)
        if file is None:
            raise StoreError(f"{shown}: the archive of {narinfo.path} is not there, though the cache says that it is")
        if None not in (file.length, narinfo.file_size) and file.length != narinfo.file_size:
            file.close()
            raise StoreError(f"{shown}: FileSize: the file has {file.length} bytes, not {narinfo.file_size}")
        return Archive(file, narinfo, shown)

    def read_nar(self, narinfo: NarInfo, use: Callable[[Archive], T]) -> T:
        """What `use` makes of the archive; begun again when a transfer fails in a way that may pass."""

        def once() -> T:
            archive = self.open_nar(narinfo)
            try:
                return use(archive)
            except ReconcilerError as error:
                # Whoever unpacks says in his own words that there was no more: why there was none comes first.
                reason = archive.failure or error
                if isinstance(reason, CutShortError):
                    raise WebError(reason.message, reason.hint, passing=True) from error
                raise reason from None
            finally:
                archive.close()

        return again(self.patience, once)

    def listing(self, path: StorePath) -> bytes | None:
        """The `.ls` file of a path, as it is; None when there is none."""
        return self._small(f"{path.hash_part}.ls", narinfos.MAX_SIZE * 8)

    def _small(self, name: str, limit: int) -> bytes | None:
        """A file of at most `limit` bytes; None when there is none."""

        def once() -> bytes | None:
            file = self._place.open(name, small=True)
            if file is None:
                return None
            with contextlib.closing(file):
                return _read_all(file, limit, self._place.shown(name))

        return again(self.patience, once)

    def close(self) -> None:
        """Let go of connections."""
        self._place.close()


def _read_all(file: File, limit: int, shown: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        data = file.read(CHUNK)
        if not data:
            return b"".join(parts)
        size += len(data)
        if size > limit:
            raise FormatError(f"{shown}: more than the {limit} bytes that such a file may have")
        parts.append(data)


@contextlib.contextmanager
def _named(shown: str) -> Iterator[None]:
    try:
        yield
    except (StoreError, FormatError) as error:
        raise type(error)(f"{shown}: {error.message}", error.hint) from None


# --- several ----------------------------------------------------------------------------------------------------------


@value
class Offer:
    """What one cache says of a path, and is believed."""

    cache: BinaryCache
    narinfo: NarInfo

    @property
    def info(self) -> PathInfo:
        """As it is registered in a store."""
        said = self.narinfo
        return PathInfo(
            said.path, said.nar_hash, said.nar_size, said.references, said.deriver, said.signatures, said.ca
        )

    def read(self, use: Callable[[Archive], T]) -> T:
        """What `use` makes of the archive; see BinaryCache.read_nar."""
        return self.cache.read_nar(self.narinfo, use)


class Caches:
    """Several caches, the one of the lowest priority asked first, those of equal ones in the order given.

    What a cache said of a path, also that it has none, is remembered for as long as this lives. What it said in an
    earlier run, where the cache has a memory, spares the question; but the cache itself is asked before it is concluded
    that none has the path, and when what was remembered leads to nothing. One that cannot be reached is left out after
    a few paths. `heard` is told of every error that another cache may make good. Safe for
    several threads; `close` when done.
    """

    GIVE_UP = 3  # paths in a row for which a cache did not answer

    def __init__(
        self, caches: Iterable[BinaryCache] = (), heard: Callable[[ReconcilerError], None] | None = None
    ) -> None:
        self._given = tuple(caches)
        self._heard = heard
        self._guard = threading.Lock()
        self._ordered: tuple[BinaryCache, ...] | None = None
        self._said: dict[tuple[int, StorePath], NarInfo | ReconcilerError | None] = {}
        self._recalled: set[tuple[int, StorePath]] = set()  # what of `_said` is an earlier run's
        self._failures: dict[int, int] = {}
        self._down: dict[int, ReconcilerError] = {}

    def __bool__(self) -> bool:
        return bool(self._given)

    def offers(self, path: StorePath) -> Iterator[Offer]:
        """What the caches that have `path` say of it, the first choice first. Each is asked when it is its turn."""
        found = False
        for cache in self._order():
            said = self._ask(cache, path)
            if isinstance(said, NarInfo):
                found = True
                yield Offer(cache, said)
        if not found:
            yield from self._anew(path)

    def _anew(self, path: StorePath) -> Iterator[Offer]:
        """What caches say now that was another thing, or nothing, in an earlier run."""
        for cache in self._order():
            with self._guard:
                earlier = self._said.get((id(cache), path))
                if (id(cache), path) not in self._recalled or id(cache) in self._down:
                    continue
            said = self._ask_now(cache, path)
            if isinstance(said, NarInfo) and said != earlier:
                yield Offer(cache, said)

    def find(self, path: StorePath) -> Offer | None:
        """The first offer; None when no cache has the path. StoreError when none can be used, but one has it, or could
        not be asked."""
        offer = next(self.offers(path), None)
        if offer is None:
            errors = self._errors(path)
            if errors:
                raise _joined(path, errors)
        return offer

    def fetch(self, path: StorePath, use: Callable[[PathInfo, Archive], T]) -> T:
        """What `use` makes of the path's archive. It is called again, with a new archive, when a transfer fails or the
        archive is not what it should be: again with that of the same cache, or with the next one's."""
        errors: list[ReconcilerError] = []
        for offer in itertools.chain(self.offers(path), self._anew(path)):
            try:
                return offer.read(lambda archive, info=offer.info: use(info, archive))  # type: ignore[misc]
            except (StoreError, FormatError) as error:
                self._tell(error)
                errors.append(error)
        raise _joined(path, [*self._errors(path), *errors])

    def ordered(self) -> tuple[BinaryCache, ...]:
        """The caches in the order in which they are asked."""
        return self._order()

    def close(self) -> None:
        """Let go of connections."""
        for cache in self._given:
            cache.close()

    def _order(self) -> tuple[BinaryCache, ...]:
        with self._guard:
            if self._ordered is None:
                priorities = {id(cache): self._priority(cache) for cache in self._given}
                self._ordered = tuple(sorted(self._given, key=lambda cache: priorities[id(cache)]))
            return self._ordered

    def _priority(self, cache: BinaryCache) -> int:
        try:
            return cache.priority
        except ReconcilerError as error:
            self._down[id(cache)] = error
            self._tell(error)
            return DEFAULT_PRIORITY

    def _ask(self, cache: BinaryCache, path: StorePath) -> NarInfo | ReconcilerError | None:
        key = id(cache)
        with self._guard:
            if (key, path) in self._said:
                return self._said[key, path]
            if key in self._down:
                return self._down[key]
        earlier = cache.recalled(path)
        if earlier is None:
            return self._ask_now(cache, path)
        with self._guard:
            self._said[key, path] = earlier.narinfo
            self._recalled.add((key, path))
        return earlier.narinfo

    def _ask_now(self, cache: BinaryCache, path: StorePath) -> NarInfo | ReconcilerError | None:
        key = id(cache)
        said: NarInfo | ReconcilerError | None
        try:
            said = cache.narinfo(path)
        except ReconcilerError as error:
            said = error
            self._tell(error)
        with self._guard:
            self._said[key, path] = said
            self._recalled.discard((key, path))
            silent = isinstance(said, WebError) and said.passing
            self._failures[key] = self._failures.get(key, 0) + 1 if silent else 0
            if isinstance(said, ReconcilerError) and self._failures[key] >= self.GIVE_UP:
                self._down[key] = said
        return said

    def _errors(self, path: StorePath) -> list[ReconcilerError]:
        """Why caches that were asked for `path` are of no help."""
        with self._guard:
            found = [self._said.get((id(cache), path), self._down.get(id(cache))) for cache in self._given]
        return [said for said in found if isinstance(said, ReconcilerError)]

    def _tell(self, error: ReconcilerError) -> None:
        if self._heard is not None:
            self._heard(error)


def _joined(path: StorePath, errors: Sequence[ReconcilerError]) -> ReconcilerError:
    """Why `path` cannot be had."""
    if not errors:
        return StoreError(f"{path}: no cache has it")
    if len(errors) == 1:
        return StoreError(f"{path} cannot be had: {errors[0].message}", errors[0].hint)
    listed = "\n".join(dict.fromkeys(error.message for error in errors))
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    return StoreError(f"{path} cannot be had from any cache:\n{listed}", next(iter(hints), None))
