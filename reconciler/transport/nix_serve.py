"""A host's own Nix takes a copy: the client of `nix-store --serve --write`, which needs no Python there.

    hello      u64 0x390c9deb, u64 version    ->  u64 0x5452eecb, u64 version; the lower of the two counts
    request    u64 operation, its arguments   ->  its answer

How numbers and strings are written: core/nix/wire.py. A version is major << 8 | minor. Spoken: 2.5 (Nix 2.1) to 2.7
(Nix 2.4 and later, which all still speak it). Errors are not part of the protocol: Nix prints one to stderr and ends,
so the end of the stream is told as what it printed. Source: opServe in Nix's nix-store.cc and its serve-protocol.hh,
and what Nix 2.8 was seen to say.

What comes from the host is bounded: a string by wire.MAX_STRING, a list by MAX_ITEMS, an archive by the size that
was said of it, every wait by a deadline.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.errors import FormatError, LinkLostError, ReconcilerError, StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.nix.wire import number, string, strings
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.wire_info import described
from reconciler.transport.connection import Channel, Connection
from reconciler.transport.errors import NotFit
from reconciler.transport.nix_program import SEARCH_PATH
from reconciler.transport.nix_wire import Wire
from reconciler.transport.text import printable

if TYPE_CHECKING:
    from typing import Self

CLIENT_MAGIC = 0x390C9DEB
SERVER_MAGIC = 0x5452EECB
OLDEST, NEWEST = (2, 5), (2, 7)

QUERY_VALID_PATHS, QUERY_PATH_INFOS, DUMP_STORE_PATH = 1, 2, 3
QUERY_CLOSURE, ADD_TO_STORE_NAR = 7, 9

MAX_ITEMS = 1 << 18
_PIECE = 64 * 1024

# From the start of the program to its hello: a login shell, sudo, and a Nix that opens its database.
START_SECONDS = 60.0
# A question, about as many paths as MAX_ITEMS.
QUESTION_SECONDS = 300.0
# An archive is given this long for anything, and the time its bytes take at this rate.
TRANSFER_SECONDS = 300.0
TRANSFER_RATE = 32 * 1024

# Nix commits a row without waiting for the files; with this setting it syncs before.
_SERVE = "exec nix-store --option sync-before-registering true --serve --write"


def _ignore(_: int) -> None:
    pass


@dataclass(frozen=True)
class Copied:
    """What came of a copy: how many paths were sent, and their bytes."""

    paths: int
    bytes: int


class ServeClient:
    """One running `nix-store --serve --write`. What was asked about with `lock` is kept from the host's garbage
    collector until `close`.

    Not for two threads. After any error it is of no more use: the channel is closed, and every call raises the error.
    """

    def __init__(self, channel: Channel, name: str, marker: str = "", seconds: float = START_SECONDS) -> None:
        """Say hello. `name` is what errors call the host; `marker`: a line on stdout that the answer comes after.

        NotFit when there is no Nix, or one that is too old; LinkLostError when nothing answers within `seconds`.
        """
        self._line = Wire(channel, name)
        self._name = name
        self._error: ReconcilerError | None = None
        with self._operation(seconds):
            if marker:
                self._line.skip_to(marker.encode() + b"\n")
            self._line.write(number(CLIENT_MAGIC) + number(_packed(NEWEST)))
            magic = self._line.number()
            if magic != SERVER_MAGIC:
                raise FormatError(f"0x{magic:x} where 'nix-store --serve' says 0x{SERVER_MAGIC:x}")
            said = self._line.number()
            self.version = min((said >> 8, said & 0xFF), NEWEST)
            if self.version < OLDEST or said >> 8 != NEWEST[0]:
                raise NotFit(f"its Nix speaks {said >> 8}.{said & 0xFF} of the copy protocol: needs Nix 2.1 or newer")

    @classmethod
    def start(cls, connection: Connection, as_root: bool, seconds: float = START_SECONDS) -> Self:
        """Start the host's Nix, as root where `as_root`, and say hello."""
        # The login shell may print before it: what is ours begins behind a line that nothing else says.
        marker = f"reconciler-{secrets.token_hex(16)}"
        script = f"PATH=$PATH:{SEARCH_PATH}; export PATH; echo {marker}; {_SERVE}"
        channel = connection.start(["sh", "-c", script], as_root)
        return cls(channel, connection.description, marker, seconds)

    # --- questions ----------------------------------------------------------------------------------------------------

    def valid(self, paths: Iterable[StorePath], *, lock: bool = False) -> frozenset[StorePath]:
        """Those of `paths` that are valid there. With `lock` none of them is collected, valid or not, until `close`."""
        asked = sorted(set(paths))
        with self._operation(QUESTION_SECONDS):
            request = number(QUERY_VALID_PATHS) + number(int(lock)) + number(0) + strings(map(str, asked))
            self._line.write(request)
            found = frozenset(self._paths(len(asked)))
            if not found <= frozenset(asked):
                raise FormatError(f"an answer about {min(found - frozenset(asked))}, which was not asked about")
            return found

    def infos(self, paths: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
        """What is registered of those of `paths` that are valid there."""
        asked = sorted(set(paths))
        found: dict[StorePath, PathInfo] = {}
        with self._operation(QUESTION_SECONDS):
            self._line.write(number(QUERY_PATH_INFOS) + strings(map(str, asked)))
            while text := self._line.string():
                info = self._info(StorePath.parse(text))
                if info.path in found or info.path not in asked:
                    raise FormatError(f"an answer about {info.path}, which was not asked about")
                found[info.path] = info
        return found

    def closure(self, paths: Iterable[StorePath], *, include_outputs: bool = False) -> tuple[StorePath, ...]:
        """Everything that `paths`, which are valid there, need; sorted."""
        with self._operation(QUESTION_SECONDS):
            request = number(QUERY_CLOSURE) + number(int(include_outputs)) + strings(map(str, sorted(set(paths))))
            self._line.write(request)
            return tuple(sorted(set(self._paths(MAX_ITEMS))))

    def dump(self, info: PathInfo) -> Iterator[bytes]:
        """The archive of a path that is registered there as `info`; StoreError, at its end, when it is another.

        To be read to its end before anything else is asked.
        """
        left, digest = info.nar_size, hashlib.sha256()
        with self._operation(_transfer_seconds(info.nar_size)):
            self._line.write(number(DUMP_STORE_PATH) + string(str(info.path)))
            while left:
                piece = self._line.some(min(left, _PIECE))
                left -= len(piece)
                digest.update(piece)
                yield piece
            if Hash("sha256", digest.digest()) != info.nar_hash:
                raise StoreError(f"{info.path} has changed there since it was registered", "reconciler verify, repair")

    # --- the copy -----------------------------------------------------------------------------------------------------

    def add(self, info: PathInfo, archive: Iterable[bytes], sent: Callable[[int], None] = _ignore) -> None:
        """Make a path valid there whose references are; nothing when it is. StoreError, in Nix's own words, when the
        archive is not what `info` says or Nix does not take it. `sent` is told how many more bytes went out."""
        left = info.nar_size
        with self._operation(_transfer_seconds(info.nar_size)):
            self._line.write(number(ADD_TO_STORE_NAR) + described(info))
            for piece in archive:
                left -= len(piece)
                if left < 0:
                    break
                self._line.write(piece)
                sent(len(piece))
            if left:
                raise StoreError(f"the archive of {info.path} is not {info.nar_size} bytes long")
            if self._line.number() != 1:
                raise StoreError(f"Nix did not take {info.path}")

    def copy(
        self,
        infos: Sequence[PathInfo],
        read: Callable[[StorePath], Iterable[bytes]],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Copied:
        """Send what the host lacks of `infos`, which come references before referrers; `read` gives an archive. All of
        them stay there until `close`. `on_progress` is told bytes done and bytes to do."""
        there = self.valid((info.path for info in infos), lock=True)
        lacking = [info for info in infos if info.path not in there]
        total, done = sum(info.nar_size for info in lacking), 0

        def sent(count: int) -> None:
            nonlocal done
            done += count
            if on_progress is not None:
                on_progress(done, total)

        for info in lacking:
            self.add(info, read(info.path), sent)
        return Copied(len(lacking), total)

    def close(self) -> None:
        """Let Nix end, which frees what it kept; never raises."""
        with contextlib.suppress(ReconcilerError, OSError):
            self._line.channel.end_input()
            if self._error is None:
                self._line.channel.exit_status(5.0)
        with contextlib.suppress(ReconcilerError, OSError):
            self._line.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- within -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _operation(self, seconds: float) -> Iterator[None]:
        """One exchange, with its deadline. Whatever ends it in the middle ends the client: nobody knows any more where
        in the stream the other side is."""
        if self._error is not None:
            raise self._error
        self._line.until = time.monotonic() + seconds
        try:
            yield
        except FormatError as error:
            message = printable(f"{self._name}: nix-store --serve: {error.message}")
            raise self._failed(FormatError(message, error.hint)) from error
        except ReconcilerError as error:
            self._failed(error)
            raise
        except BaseException:
            self._failed(LinkLostError(f"{self._name}: the copy was broken off"))
            raise

    def _failed(self, error: ReconcilerError) -> ReconcilerError:
        self._error = error
        self._line.channel.close()
        return error

    def _paths(self, most: int) -> list[StorePath]:
        return [StorePath.parse(self._line.string()) for _ in range(self._line.count(most))]

    def _info(self, path: StorePath) -> PathInfo:
        """The rest of an answer about a path."""
        deriver = StorePath.parse(text) if (text := self._line.string()) else None
        references = tuple(self._paths(MAX_ITEMS))
        self._line.number()  # what a download would cost
        size = self._line.number()
        nar_hash, ca = self._line.string(), self._line.string()
        signatures = tuple(self._line.string() for _ in range(self._line.count(MAX_ITEMS)))
        return PathInfo(path, Hash.parse(nar_hash, "sha256"), size, references, deriver, signatures, ca)


def _packed(version: tuple[int, int]) -> int:
    return version[0] << 8 | version[1]


def _transfer_seconds(size: int) -> float:
    return TRANSFER_SECONDS + size / TRANSFER_RATE
