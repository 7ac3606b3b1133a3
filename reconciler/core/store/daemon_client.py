"""A client of Nix's daemon: the worker protocol over /nix/var/nix/daemon-socket/socket.

    hello      u64 0x6e697863  ->  u64 0x6478696f, u64 version  ->  u64 version, 0, 0
               ->  from 1.33: Nix's version as a string; from 1.35: whether we are trusted; talk
    request    u64 operation, its arguments  ->  talk, its answer
    talk       any number of: a line (NEXT), an activity that starts, ends or has a result, a request for bytes (READ);
               then LAST, or ERROR, after which there is no answer and the next request may come

A version is major << 8 | minor; the lower of both sides' counts. Spoken: 1.21 (Nix 2.3) to 1.35, which every later Nix
speaks too. Up to 1.22 the daemon asks for the bytes of an archive; from 1.23 they are sent in frames: u64 length,
bytes, and 0 at the end. Source: Nix's daemon.cc and worker-protocol.cc, and what Nix 2.8 was seen to say to each
version.

What comes from the daemon is bounded: a string by wire.MAX_STRING, what is meant for people by MAX_TEXT, a list by
MAX_ITEMS, every wait by a deadline.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable

from reconciler.core.errors import FormatError, ReconcilerError, StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.nix.wire import number, string, strings
from reconciler.core.store.daemon_line import Line
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.wire_info import described
from reconciler.core.values import value

CLIENT_MAGIC, SERVER_MAGIC = 0x6E697863, 0x6478696F
OLDEST, NEWEST = 21, 35  # of version 1

BUILD_PATHS, ADD_TEMP_ROOT, ADD_INDIRECT_ROOT = 9, 11, 12
QUERY_PATH_INFO, QUERY_VALID_PATHS, ADD_TO_STORE_NAR = 26, 31, 39

NEXT, READ, LAST, ERROR = 0x6F6C6D67, 0x64617461, 0x616C7473, 0x63787470
START_ACTIVITY, STOP_ACTIVITY, RESULT = 0x53545254, 0x53544F50, 0x52534C54

MAX_ITEMS = 1 << 18
MAX_TEXT = 1 << 20
_MAX_FIELDS = 64
_MAX_TRACES = 1024
# Questions that are on their way at a time: they, unlike their answers, fit into a socket's buffer.
_AT_ONCE = 64

QUESTION_SECONDS = 300.0
# A root waits until a garbage collection is done.
ROOT_SECONDS = 600.0
BUILD_SECONDS = 24 * 3600.0
# An archive is given this long for anything, and the time its bytes take at this rate.
TRANSFER_SECONDS = 300.0
TRANSFER_RATE = 32 * 1024
_FRAME = 64 * 1024
_COLOURS = re.compile("\x1b\\[[0-9;]*[A-Za-z]")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class DaemonError(StoreError):
    """The daemon did not do what was asked, and said why; it can be asked something else."""


@value
class Activity:
    """What the daemon tells while it works. `kind`: `start`, `stop` or `result`; `number` is the activity's, `type`
    Nix's number of what it is, or of the result; `fields`: the texts that describe it."""

    kind: str
    number: int
    type: int
    fields: tuple[str, ...] = ()


def _unheard(_: Activity) -> None:
    pass


class DaemonClient:
    """One connection. After a DaemonError the next request may be made; after any other error none, and each is
    answered by that error."""

    def __init__(self, line: Line, newest: int = NEWEST) -> None:
        self._line = line
        self._error: ReconcilerError | None = None
        self._heard: Callable[[Activity], None] = _unheard
        self.minor = 0
        with self._operation(QUESTION_SECONDS):
            self._hello(newest)

    @classmethod
    def connect(cls, path: str, newest: int = NEWEST) -> DaemonClient:
        """To the daemon whose socket is at `path`, speaking 1.`newest` at most. OSError where nobody listens there."""
        line = Line.to(path)
        try:
            return cls(line, newest)
        except BaseException:
            line.close()
            raise

    def _hello(self, newest: int) -> None:
        line = self._line
        line.write(number(CLIENT_MAGIC))
        if line.number() != SERVER_MAGIC:
            raise FormatError("what listens there is not Nix's daemon")
        theirs = line.number()
        self.minor = min(theirs & 0xFF, newest)
        if theirs >> 8 != 1 or self.minor < OLDEST:
            raise StoreError(
                f"the Nix daemon speaks version {theirs >> 8}.{theirs & 0xFF}", "Nix 2.3 or newer is needed"
            )
        line.write(number(1 << 8 | newest) + number(0) + number(0))
        if self.minor >= 33:
            line.string()
        if self.minor >= 35:
            line.number()
        self._listen()

    def close(self) -> None:
        """What was kept for us until now may be collected from now on."""
        self._line.close()

    # --- questions ----------------------------------------------------------------------------------------------------

    def valid(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid."""
        asked = set(paths)
        request = number(QUERY_VALID_PATHS) + strings(map(str, sorted(asked)))
        with self._operation(QUESTION_SECONDS):
            self._line.write(request + (number(0) if self.minor >= 27 else b""))
            self._listen()
            found = set(self._paths())
            if not found <= asked:
                raise FormatError(f"an answer about {min(found - asked)}, which was not asked about")
            return found

    def infos(self, paths: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
        """What is registered of those of `paths` that are valid."""
        asked = list(dict.fromkeys(paths))
        found: dict[StorePath, PathInfo] = {}
        for start in range(0, len(asked), _AT_ONCE):
            some = asked[start : start + _AT_ONCE]
            with self._operation(QUESTION_SECONDS):
                self._line.write(b"".join(number(QUERY_PATH_INFO) + string(str(path)) for path in some))
                try:
                    for path in some:
                        self._listen()
                        if self._line.number():
                            found[path] = self._info(path)
                except DaemonError as error:  # and nobody reads what is said of the others
                    raise self._broken(StoreError(error.message)) from error
        return found

    # --- what changes the store ---------------------------------------------------------------------------------------

    def add_temp_root(self, path: StorePath) -> None:
        """Keep `path` until `close`, whether it is valid yet or not."""
        self._simple(number(ADD_TEMP_ROOT) + string(str(path)), ROOT_SECONDS)

    def add_indirect_root(self, link: str) -> None:
        """Keep what the link at the path `link` leads to, for as long as it is there."""
        self._simple(number(ADD_INDIRECT_ROOT) + string(link), ROOT_SECONDS)

    def add(self, info: PathInfo, archive: Iterable[bytes]) -> None:
        """Make a path valid whose references are. DaemonError when the daemon does not take it."""
        # Repair nothing; check no signatures, which counts only where we are one of the daemon's trusted-users, who may
        # do anything there.
        request = number(ADD_TO_STORE_NAR) + described(info) + number(0) + number(1)
        with self._operation(TRANSFER_SECONDS + info.nar_size / TRANSFER_RATE):
            self._line.write(request)
            source = _Source(archive, info)
            if self.minor >= 23:
                for piece in source.pieces():
                    self._line.write(number(len(piece)) + piece)
                self._line.write(number(0))
            self._listen(source)

    def build(
        self,
        outputs: Sequence[str],
        heard: Callable[[Activity], None] = _unheard,
        waiting: Callable[[], None] | None = None,
    ) -> None:
        """Make valid what `DERIVATION!OUTPUT,…` names. DaemonError when one cannot be built. `waiting` is called while
        nothing happens: what it raises ends the connection, and with it the builds."""
        self._heard, before = heard, self._line.waiting
        self._line.waiting = waiting or before
        try:
            self._simple(number(BUILD_PATHS) + strings(outputs) + number(0), BUILD_SECONDS)
        finally:
            self._heard, self._line.waiting = _unheard, before

    # --- within -------------------------------------------------------------------------------------------------------

    def _simple(self, request: bytes, seconds: float) -> None:
        """A request whose answer says nothing."""
        with self._operation(seconds):
            self._line.write(request)
            self._listen()
            self._line.number()

    @contextlib.contextmanager
    def _operation(self, seconds: float) -> Iterator[None]:
        """One exchange, with its deadline. What ends it in the middle ends the connection: nobody knows any more where
        in the stream the other side is."""
        if self._error is not None:
            raise self._error
        self._line.until = time.monotonic() + seconds
        try:
            yield
        except DaemonError:
            raise
        except FormatError as error:
            raise self._broken(FormatError(f"the Nix daemon: {error.message}", error.hint)) from error
        except ReconcilerError as error:
            self._broken(error)
            raise
        except BaseException:
            self._broken(StoreError("the connection to the Nix daemon was broken off"))
            raise

    def _broken(self, error: ReconcilerError) -> ReconcilerError:
        self._error = error
        self._line.close()
        return error

    def _listen(self, source: _Source | None = None) -> None:
        """What the daemon says before its answer."""
        line = self._line
        while (word := line.number()) != LAST:
            if word == NEXT:
                line.text(MAX_TEXT)
            elif word == ERROR:
                raise DaemonError(self._why())
            elif word == READ and source is not None:
                piece = source.read(line.number())
                line.write(number(len(piece)) + piece + bytes(-len(piece) % 8))
            else:
                self._heard(self._activity(word))

    def _activity(self, word: int) -> Activity:
        line = self._line
        if word == STOP_ACTIVITY:
            return Activity("stop", line.number(), 0)
        if word == RESULT:
            return Activity("result", line.number(), line.number(), self._fields())
        if word != START_ACTIVITY:
            raise FormatError(f"it says {word:#x}, which means nothing here")
        which, _, kind = line.number(), line.number(), line.number()
        line.text(MAX_TEXT)
        fields = self._fields()
        line.number()  # what it is a part of
        return Activity("start", which, kind, fields)

    def _fields(self) -> tuple[str, ...]:
        found = []
        for _ in range(self._line.count(_MAX_FIELDS)):
            kind = self._line.number()
            if kind not in (0, 1):
                raise FormatError(f"a field of kind {kind}")
            found.append(_plain(self._line.text(MAX_TEXT)) if kind else str(self._line.number()))
        return tuple(found)

    def _why(self) -> str:
        """The rest of an error."""
        line = self._line
        if self.minor < 26:
            message = line.text(MAX_TEXT)
            line.number()  # what Nix would have ended with
            return _plain(message)
        line.string()
        line.number()
        line.string()
        message = line.text(MAX_TEXT)
        line.number()
        for _ in range(line.count(_MAX_TRACES)):
            line.number()
            line.text(MAX_TEXT)
        return _plain(message)

    def _paths(self) -> list[StorePath]:
        return [StorePath.parse(self._line.string()) for _ in range(self._line.count(MAX_ITEMS))]

    def _info(self, path: StorePath) -> PathInfo:
        line = self._line
        deriver = StorePath.parse(text) if (text := line.string()) else None
        nar_hash = Hash.parse(line.string(), "sha256")
        references = tuple(self._paths())
        registered, size, ultimate = line.number(), line.number(), bool(line.number())
        signatures = tuple(line.string() for _ in range(line.count(MAX_ITEMS)))
        ca = line.string()
        return PathInfo(path, nar_hash, size, references, deriver, signatures, ca, ultimate, registered)


class _Source:
    """An archive in pieces; StoreError when it is not as long as was said."""

    def __init__(self, archive: Iterable[bytes], info: PathInfo) -> None:
        self._chunks = iter(archive)
        self._left = info.nar_size
        self._path = info.path
        self._rest = b""

    def read(self, most: int) -> bytes:
        """The next bytes, at least one where there are any."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                if self._left:
                    raise StoreError(f"the archive of {self._path} is {self._left} bytes too short")
                return b""
            self._rest = bytes(chunk)
        piece, self._rest = self._rest[:most], self._rest[most:]
        self._left -= len(piece)
        if self._left < 0:
            raise StoreError(f"the archive of {self._path} is longer than was said")
        return piece

    def pieces(self) -> Iterator[bytes]:
        while piece := self.read(_FRAME):
            yield piece


def _plain(text: str) -> str:
    """What the daemon wrote for a terminal, without what could move a cursor."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", _COLOURS.sub("", text)).strip().removeprefix("error: ")
