"""A host's own Nix takes a copy: the client of `nix-store --serve --write`, which needs no Python there.

    hello      u64 0x390c9deb, u64 version    ->  u64 0x5452eecb, u64 version; the lower of the two counts
    request    u64 operation, its arguments   ->  its answer
    string     u64 length, bytes, zeros up to a multiple of 8
    strings    u64 count, that many strings

u64 is little-endian, a version (major << 8 | minor). Spoken: 2.5 (Nix 2.1) to 2.7 (Nix 2.4 and later, which all still
speak it). Errors are not part of the protocol: Nix prints one to stderr and ends, so the end of the stream is told as
what it printed. Source: opServe in Nix's nix-store.cc and its serve-protocol.hh, and what Nix 2.8 was seen to say.

What comes from the host is bounded: a string by MAX_STRING, a list by MAX_ITEMS, an archive by the size that was said
of it, every wait by a deadline.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.errors import FormatError, LinkLostError, ReconcilerError, StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.transport.connection import Channel, Connection, Stream
from reconciler.transport.errors import NotFit
from reconciler.transport.nix_program import SEARCH_PATH
from reconciler.transport.text import Tail, printable

if TYPE_CHECKING:
    from typing import Self

CLIENT_MAGIC = 0x390C9DEB
SERVER_MAGIC = 0x5452EECB
OLDEST, NEWEST = (2, 5), (2, 7)

QUERY_VALID_PATHS, QUERY_PATH_INFOS, DUMP_STORE_PATH = 1, 2, 3
QUERY_CLOSURE, ADD_TO_STORE_NAR = 7, 9

MAX_STRING = 4096
MAX_ITEMS = 1 << 18
MAX_NOISE = 64 * 1024
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
        self._line = _Line(channel, name)
        self._name = name
        self._error: ReconcilerError | None = None
        with self._operation(seconds):
            if marker:
                self._line.skip_to(marker.encode() + b"\n")
            self._line.write(_number(CLIENT_MAGIC) + _number(_packed(NEWEST)))
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
            request = _number(QUERY_VALID_PATHS) + _number(int(lock)) + _number(0) + _strings(map(str, asked))
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
            self._line.write(_number(QUERY_PATH_INFOS) + _strings(map(str, asked)))
            while text := self._line.string():
                info = self._info(StorePath.parse(text))
                if info.path in found or info.path not in asked:
                    raise FormatError(f"an answer about {info.path}, which was not asked about")
                found[info.path] = info
        return found

    def closure(self, paths: Iterable[StorePath], *, include_outputs: bool = False) -> tuple[StorePath, ...]:
        """Everything that `paths`, which are valid there, need; sorted."""
        with self._operation(QUESTION_SECONDS):
            request = _number(QUERY_CLOSURE) + _number(int(include_outputs)) + _strings(map(str, sorted(set(paths))))
            self._line.write(request)
            return tuple(sorted(set(self._paths(MAX_ITEMS))))

    def dump(self, info: PathInfo) -> Iterator[bytes]:
        """The archive of a path that is registered there as `info`; StoreError, at its end, when it is another.

        To be read to its end before anything else is asked.
        """
        left, digest = info.nar_size, hashlib.sha256()
        with self._operation(_transfer_seconds(info.nar_size)):
            self._line.write(_number(DUMP_STORE_PATH) + _string(str(info.path)))
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
            self._line.write(_number(ADD_TO_STORE_NAR) + _described(info))
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


class _Line:
    """A channel's bytes, both ways, up to the time `until` (monotonic)."""

    def __init__(self, channel: Channel, name: str) -> None:
        self.channel = channel
        self.until = 0.0
        self._name = name
        self._stderr = Tail()
        self._got = bytearray()

    # --- out ----------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        try:
            self.channel.write(data, self._left())
        except LinkLostError as error:
            # Nix says why it ended on its other stream, which is behind what we wrote.
            self.until = min(self.until, time.monotonic() + 2.0)
            self._drain()
            raise self._ended(error) from error

    def _drain(self) -> None:
        with contextlib.suppress(ReconcilerError):
            while time.monotonic() < self.until:
                item = self.channel.read(0.2)
                if item is not None and item[0] is Stream.END:
                    return
                if item is not None and item[0] is Stream.ERR:
                    self._stderr.add(item[1])

    # --- in -----------------------------------------------------------------------------------------------------------

    def skip_to(self, marker: bytes) -> None:
        """Drop everything up to and with `marker`."""
        while (place := self._got.find(marker)) < 0:
            if len(self._got) > MAX_NOISE:
                raise NotFit(
                    f"the login shell printed {MAX_NOISE // 1024} KiB and Nix did not start",
                    "let its start-up files print nothing when they are not interactive",
                )
            self._fill()
        del self._got[: place + len(marker)]

    def number(self) -> int:
        return int.from_bytes(self._exactly(8), "little")

    def count(self, most: int) -> int:
        """The length of a list of at most `most`."""
        count = self.number()
        if count > most:
            raise FormatError(f"a list of {count}, where {most} are the most")
        return count

    def string(self) -> str:
        size = self.number()
        if size > MAX_STRING:
            raise FormatError(f"a string of {size} bytes, where {MAX_STRING} are the most")
        padded = self._exactly(size + -size % 8)
        if any(padded[size:]):
            raise FormatError("a string is not padded with zeros")
        try:
            return padded[:size].decode("ascii")
        except UnicodeDecodeError:
            raise FormatError("a string is not ASCII") from None

    def some(self, most: int) -> bytes:
        """What is there, at least one byte."""
        while not self._got:
            self._fill()
        piece = bytes(self._got[:most])
        del self._got[:most]
        return piece

    def _exactly(self, size: int) -> bytes:
        while len(self._got) < size:
            self._fill()
        piece = bytes(self._got[:size])
        del self._got[:size]
        return piece

    def _fill(self) -> None:
        """The next piece of stdout. sudo is answered on the way."""
        while True:
            item = self.channel.read(self._left())
            if item is None:
                continue  # `_left` raises
            stream, data = item
            if stream is Stream.OUT:
                self._got += data
                return
            if stream is Stream.END:
                raise self._ended(None)
            self._stderr.add(data)
            answer = self.channel.elevation.answer(self._stderr.text) if self.channel.elevation else None
            if answer is not None:
                self.channel.write(answer, self._left())

    def _left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise LinkLostError(f"{self._name}: Nix did not answer in time{self._said()}")
        return left

    def _said(self) -> str:
        said = self._stderr.last_lines(3)
        return f": {said}" if said else ""

    def _ended(self, lost: LinkLostError | None) -> ReconcilerError:
        """Why there is nothing more: as sudo or Nix said it, else that the connection broke."""
        elevation = self.channel.elevation
        if elevation is not None:
            explained = elevation.explain(self._stderr.text)
            if explained is not None:
                return explained
            visible, self._stderr = elevation.visible(self._stderr.text), Tail()
            self._stderr.add(visible.encode())
        status = self.channel.exit_status(2.0)
        if status is None:
            return lost or LinkLostError(f"{self._name}: the connection broke{self._said()}")
        if status == 127 or re.search(r"nix-store\W*:? .*[Nn]ot? (such file|found)", self._stderr.text):
            return NotFit("there is no nix-store", "install Nix there, or Python 3.9")
        return StoreError(f"{self._name}: Nix ended (exit status {status}){self._said()}")


def _packed(version: tuple[int, int]) -> int:
    return version[0] << 8 | version[1]


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _string(text: str) -> bytes:
    data = text.encode()
    return _number(len(data)) + data + b"\0" * (-len(data) % 8)


def _strings(texts: Iterable[str]) -> bytes:
    items = [_string(text) for text in texts]
    return _number(len(items)) + b"".join(items)


def _described(info: PathInfo) -> bytes:
    """What goes before an archive; the hash is bare base-16 here, and in base-32 where Nix tells of a path."""
    return b"".join(
        (
            _string(str(info.path)),
            _string(str(info.deriver) if info.deriver else ""),
            _string(info.nar_hash.base16),
            _strings(map(str, info.references)),
            _number(0),  # when it was registered: now
            _number(info.nar_size),
            _number(0),  # not built there
            _strings(info.signatures),
            _string(info.ca),
        )
    )


def _transfer_seconds(size: int) -> float:
    return TRANSFER_SECONDS + size / TRANSFER_RATE
