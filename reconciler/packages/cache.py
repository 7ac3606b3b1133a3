"""Filling a binary cache: a directory that any web server can serve, and that Nix substitutes from.

    nix-cache-info
    nar/<hash of the compressed file>.nar[.xz]
    <hash part>.ls            the archive's listing
    <hash part>.narinfo       what makes the path there

Every file is written under another name, made durable, and renamed. A path's narinfo comes last, after its archive and
the narinfos of all that it refers to, so that whoever is killed, or looks on, has a cache in which every path that is
there is there with its closure. What a killed run leaves beside that is removed by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import listing, nar, nar_format
from reconciler.core.nix import narinfo as narinfos
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.narinfo import CacheInfo, NarInfo
from reconciler.core.nix.signature import Signature, fingerprint
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import compression as methods
from reconciler.core.store.binary_cache import CACHE_INFO
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from reconciler.packages.keys import SecretKey

DEFAULT_COMPRESSION = "xz"
PRIORITY = 30  # before cache.nixos.org, which says 40
_TEMPORARY = ".push-"


@dataclass(frozen=True)
class PushEvent:
    """`done` of `total` bytes of archives have been compressed; `path` when one is in the cache now."""

    path: StorePath | None
    done: int
    total: int


@dataclass(frozen=True)
class Entry:
    """One path of a push. `file_size`: bytes in the cache. `pushed`: False when the cache had it; `signed`: whether
    only a signature was added."""

    path: StorePath
    nar_size: int
    file_size: int
    pushed: bool
    signed: bool = False


@dataclass(frozen=True)
class PushResult:
    """The closure of what was asked for, references first."""

    entries: tuple[Entry, ...]

    @property
    def pushed(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.pushed)

    @property
    def skipped(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if not entry.pushed)


Heard = Callable[[PushEvent], None]


def push(
    store: Store,
    paths: Iterable[StorePath],
    directory: str,
    key: SecretKey | None,
    *,
    compression: str = DEFAULT_COMPRESSION,
    jobs: int | None = None,
    heard: Heard | None = None,
) -> PushResult:
    """Put the closure of `paths`, which are valid in `store`, into the cache in `directory`, signed with `key`.

    What the cache has, it keeps: at most a signature is added. StoreError when a path is not valid or is damaged, when
    the disk refuses, or when `directory` is the cache of another store.
    """
    methods.check(compression)
    wanted = sorted(set(paths))
    store.add_temp_roots(wanted)
    infos = store.infos(store.closure(wanted))
    store.add_temp_roots(info.path for info in infos)
    with _told(directory), _Cache(directory, key, compression) as cache:
        return _Push(store, cache, infos, heard or _nobody).run(jobs or os.cpu_count() or 1)


def _nobody(_: PushEvent) -> None: ...


@contextlib.contextmanager
def _told(directory: str) -> Iterator[None]:
    """What the machine refuses, as an error that names the cache."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"the cache {directory}: {error.strerror or error}") from error


class _Push:
    """One run. Archives are made by the threads of a pool, narinfos by the thread that called, references first."""

    def __init__(self, store: Store, cache: _Cache, infos: Sequence[PathInfo], heard: Heard) -> None:
        self._store = store
        self._cache = cache
        self._infos = infos
        self._heard = heard
        self._done = 0
        self._stopped = False
        self._total = 0

    def run(self, jobs: int) -> PushResult:
        there = {info.path: self._cache.there(info) for info in self._infos}
        self._total = sum(info.nar_size for info in self._infos if there[info.path] is None)
        entries = []
        with ThreadPoolExecutor(jobs, "push") as pool:
            made: dict[StorePath, Future[NarInfo]] = {
                info.path: pool.submit(self._archive, info) for info in self._infos if there[info.path] is None
            }
            try:
                for info in self._infos:
                    future = made.get(info.path)
                    entries.append(self._enter(info, there[info.path], future.result() if future else None))
            finally:
                self._stopped = True
                for future in made.values():
                    future.cancel()
        return PushResult(tuple(entries))

    def _enter(self, info: PathInfo, there: NarInfo | None, made: NarInfo | None) -> Entry:
        if made is not None:
            self._cache.write_narinfo(made)
            self._heard(PushEvent(info.path, self._done, self._total))
            return Entry(info.path, info.nar_size, made.file_size or 0, pushed=True)
        assert there is not None
        signed = self._cache.sign(there, info)
        return Entry(info.path, there.nar_size, there.file_size or there.nar_size, pushed=False, signed=signed)

    def _archive(self, info: PathInfo) -> NarInfo:
        """Write a path's archive and listing; its narinfo."""
        with self._cache.archive() as writing:
            source = _Source(self._store.nar(info.path), writing, self._count)
            listed = _listing(source)
            nar_hash = source.finish()
            if (nar_hash, source.size) != (info.nar_hash, info.nar_size):
                raise StoreError(
                    f"{info.path}: it is damaged: its NAR is not the one that is registered",
                    hint="reconciler repair --here mends it",
                )
            made = self._cache.keep(writing, info)
        if listed is not None:
            self._cache.write(f"{info.path.hash_part}.ls", listed, durable_name=False)
        return made

    def _count(self, size: int) -> None:
        if self._stopped:
            raise StoreError("stopped")
        self._done += size  # several threads: a byte that is lost to a race is lost to the progress line alone
        self._heard(PushEvent(None, self._done, self._total))


class _Source:
    """A Reader of a NAR that also hashes it, and writes it compressed."""

    def __init__(self, chunks: Iterator[bytes], writing: _Writing, count: Callable[[int], None]) -> None:
        self._reader = nar.ChunkReader(chunks)
        self._writing = writing
        self._count = count
        self._state = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        if data:
            self._state.update(data)
            self.size += len(data)
            self._writing.add(data)
            self._count(len(data))
        return data

    def finish(self) -> Hash:
        """Read what is left; the NAR's hash."""
        while self.read(nar.CHUNK):
            pass
        return Hash("sha256", self._state.digest())


def _listing(source: _Source) -> bytes | None:
    """The listing of what `source` reads; None where there is none, since a name is not UTF-8."""
    lister = listing.Lister()
    try:
        nar_format.parse(source, lister)
    except FormatError:
        return None
    return lister.result()


# --- the directory ----------------------------------------------------------------------------------------------------


class _Cache:
    """The files of one cache."""

    def __init__(self, directory: str, key: SecretKey | None, method: str) -> None:
        self.directory = os.path.abspath(directory)
        self._archives = os.path.join(self.directory, "nar")
        self._key = key
        self._method = method
        self._unsynced = threading.Event()  # whether archives have got names that are not durable

    def __enter__(self) -> _Cache:
        fs.ensure_directory(self._archives)
        for folder in (self.directory, self._archives):
            _sweep(folder)
        info = self._read(CACHE_INFO)
        if info is None:
            self.write(CACHE_INFO, CacheInfo(want_mass_query=True, priority=PRIORITY).serialise())
        else:
            narinfos.parse_cache_info(info, os.path.join(self.directory, CACHE_INFO))
        return self

    def __exit__(self, *_: object) -> None: ...

    def _read(self, name: str) -> bytes | None:
        try:
            with open(os.path.join(self.directory, name), "rb") as file:
                return file.read(narinfos.MAX_SIZE + 1)
        except FileNotFoundError:
            return None

    def there(self, info: PathInfo) -> NarInfo | None:
        """The narinfo of a path that the cache has, whole; a path that was made elsewhere may have other contents."""
        name = f"{info.path.hash_part}.narinfo"
        data = self._read(name)
        if data is None:
            return None
        try:
            found = narinfos.parse(data, name, info.path.hash_part)
            size = os.stat(os.path.join(self.directory, found.url.partition("?")[0])).st_size
        except (FormatError, FileNotFoundError):
            return None
        return found if found.path == info.path and size == (found.file_size or size) else None

    def sign(self, there: NarInfo, info: PathInfo) -> bool:
        """Add our signature to a path that the cache has; whether it lacked it. StoreError when what it has is not what
        our store has: that would be to vouch for what was not seen here."""
        if self._key is None or self._key.sign(there.fingerprint) in there.signatures:
            return False
        name = f"{there.path.hash_part}.narinfo"
        if there.fingerprint != fingerprint(info.path, info.nar_hash, info.nar_size, info.references):
            raise StoreError(
                f"{self.directory}/{name}: the cache has {info.path} with other contents, not signed by"
                f" '{self._key.name}'",
                hint="remove that file, and push again, to replace them",
            )
        with self._locked():
            # Read again: another run may have signed it meanwhile.
            data = self._read(name)
            latest = there if data is None else narinfos.parse(data, name, there.path.hash_part)
            if latest.fingerprint == there.fingerprint:
                self.write(name, self._signed(latest).serialise())
        return True

    def _signed(self, narinfo: NarInfo) -> NarInfo:
        if self._key is None:
            return narinfo
        others = [each for each in narinfo.signatures if Signature.parse(each).key_name != self._key.name]
        return replace(narinfo, signatures=(*others, self._key.sign(narinfo.fingerprint)))

    def archive(self) -> _Writing:
        """A new archive."""
        return _Writing(self._archives, methods.compressor(self._method))

    def keep(self, writing: _Writing, info: PathInfo) -> NarInfo:
        """Put a finished archive into its place; the path's narinfo."""
        file_hash, file_size = writing.finish()
        name = f"{file_hash.base32}.nar{methods.SUFFIXES[self._method]}"
        writing.commit(name, durable_name=False)
        self._unsynced.set()
        return NarInfo(
            info.path,
            f"nar/{name}",
            self._method,
            file_hash,
            file_size,
            info.nar_hash,
            info.nar_size,
            info.references,
            info.deriver,
            tuple(filter(_well_formed, info.signatures)),
            info.ca,
        )

    def write_narinfo(self, narinfo: NarInfo) -> None:
        # One sync makes the names of all archives durable that are there by now.
        if self._unsynced.is_set():
            self._unsynced.clear()
            fs.fsync_directory(self._archives)
        with self._locked():
            self.write(f"{narinfo.path.hash_part}.narinfo", self._signed(narinfo).serialise())

    def write(self, name: str, data: bytes, durable_name: bool = True) -> None:
        with _Writing(self.directory, methods.compressor("none")) as writing:
            writing.add(data)
            writing.finish()
            writing.commit(name, durable_name)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time changes narinfos."""
        fd = os.open(self.directory, fs.OPEN_DIRECTORY)
        try:
            fs.flock(fd, exclusive=True)
            yield
        finally:
            os.close(fd)


def _well_formed(signature: str) -> bool:
    try:
        Signature.parse(signature)
    except FormatError:
        return False
    return True


class _Writing:
    """A file that is written under a name of no meaning, and flocked meanwhile, until `commit` gives it its own."""

    def __init__(self, folder: str, compressor: methods.Compressor) -> None:
        self._folder = folder
        self._compressor = compressor
        self._state = hashlib.sha256()
        self._size = 0
        self._name = ""
        self._fd = -1

    def __enter__(self) -> _Writing:
        while self._fd < 0:
            self._name = os.path.join(self._folder, f"{_TEMPORARY}{os.getpid()}-{os.urandom(6).hex()}")
            fd = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fs.flock(fd, exclusive=True)
            if os.fstat(fd).st_nlink:
                self._fd = fd
            else:  # somebody swept it between open and flock
                os.close(fd)
        return self

    def add(self, data: bytes) -> None:
        self._write(self._compressor.compress(data))

    def finish(self) -> tuple[Hash, int]:
        """The end of the data; hash and size of the file."""
        self._write(self._compressor.flush())
        return Hash("sha256", self._state.digest()), self._size

    def _write(self, data: bytes) -> None:
        if data:
            self._state.update(data)
            self._size += len(data)
            fs.write_all(self._fd, data)

    def commit(self, name: str, durable_name: bool = True) -> None:
        """Make it durable, under its name; without `durable_name` that may still be lost with the power."""
        os.fchmod(self._fd, 0o644)
        os.fsync(self._fd)
        os.rename(self._name, os.path.join(self._folder, name))
        self._name = ""
        if durable_name:
            fs.fsync_directory(self._folder)

    def __exit__(self, *_: object) -> None:
        if self._name:
            with contextlib.suppress(OSError):
                os.unlink(self._name)
        os.close(self._fd)


def _sweep(folder: str) -> None:
    """Remove what killed runs left: temporary files that nobody has locked."""
    for name in os.listdir(folder):
        if not name.startswith(_TEMPORARY):
            continue
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if fs.flock(fd, exclusive=True, wait=False):
                    os.unlink(path)
            finally:
                os.close(fd)
