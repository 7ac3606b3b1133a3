"""What is registered of paths, as text: `nix-store --dump-db`, `--load-db` and `--register-validity`.

    path                                 one line each:
    <sha256 of the NAR, base-16>         these two only with hashes: in --dump-db and --load-db,
    <size of the NAR>                    and in --register-validity --hash-given
    <deriver, or an empty line>
    <number of references>
    <reference>                          as many lines as that

One after another, with a newline after each line, the last too. Signatures, content addresses and times are not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from reconciler.core.errors import FormatError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import value

MAX_LINE = 512  # bytes; the longest line is a store path
MAX_REFERENCES = 100_000

_NUMBER = re.compile(r"[0-9]{1,18}")
_HEX = re.compile(r"[0-9a-f]{64}")


@value
class Registration:
    """What is said of one path. `nar_hash` and `nar_size` (bytes) are both there or both None; `references` are sorted
    and may hold the path itself."""

    path: StorePath
    nar_hash: Hash | None
    nar_size: int | None
    deriver: StorePath | None
    references: tuple[StorePath, ...]

    def __post_init__(self) -> None:
        if (self.nar_hash is None) != (self.nar_size is None):
            raise FormatError(f"{self.path}: a hash without a size, or a size without a hash")
        object.__setattr__(self, "references", tuple(sorted(set(self.references))))

    def serialise(self) -> bytes:
        """Its lines."""
        lines = [str(self.path)]
        if self.nar_hash is not None:
            lines += (self.nar_hash.base16, str(self.nar_size))
        lines += ("" if self.deriver is None else str(self.deriver), str(len(self.references)))
        lines += map(str, self.references)
        return "".join(f"{line}\n" for line in lines).encode()


def parse(chunks: Iterable[bytes], shown: str, hashes: bool = True) -> Iterator[Registration]:
    """The registrations in a text of any length that comes in chunks of any sizes, as they come.

    `shown` is where it is from; `hashes`: whether hash and size are given. FormatError, naming the line, at the first
    that is wrong.
    """
    lines = _Lines(chunks, shown)
    while True:
        path = lines.next()
        if path is None:
            return
        yield _one(lines, path, hashes)


def _one(lines: _Lines, path: str, hashes: bool) -> Registration:
    parsed = lines.path(path)
    nar_hash = nar_size = None
    if hashes:
        digest = lines.wanted("a hash")
        if _HEX.fullmatch(digest) is None:
            raise lines.fault(f"{digest!r} is no sha256 in base-16")
        nar_hash = Hash.parse(digest, "sha256")
        nar_size = lines.number("the size of a NAR")
    deriver = lines.wanted("a deriver or an empty line")
    parsed_deriver = lines.path(deriver) if deriver else None
    count = lines.number("the number of references")
    if count > MAX_REFERENCES:
        raise lines.fault(f"{count} references; {MAX_REFERENCES} are allowed")
    references = tuple([lines.path(lines.wanted("a reference")) for _ in range(count)])
    return Registration(parsed, nar_hash, nar_size, parsed_deriver, references)


class _Lines:
    """Lines of a stream, each bounded, and complaints that name them."""

    def __init__(self, chunks: Iterable[bytes], shown: str) -> None:
        self._lines = self._split(chunks)
        self._shown = shown
        self._number = 0

    def fault(self, what: str) -> FormatError:
        return FormatError(f"{self._shown}: line {self._number}: {what}")

    def next(self) -> str | None:
        self._number += 1
        return next(self._lines, None)

    def wanted(self, what: str) -> str:
        line = self.next()
        if line is None:
            raise self.fault(f"{what} expected, and there the text ends")
        return line

    def number(self, what: str) -> int:
        text = self.wanted(what)
        if _NUMBER.fullmatch(text) is None:
            raise self.fault(f"{what} expected, not {text!r}")
        return int(text)

    def path(self, text: str) -> StorePath:
        try:
            return StorePath.parse(text)
        except FormatError as error:
            raise self.fault(error.message) from None

    def _split(self, chunks: Iterable[bytes]) -> Iterator[str]:
        rest = b""
        for chunk in chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield self._text(line)
            self._text(rest)
        if rest:
            raise self.fault("it is not ended by a newline: the text is cut short")

    def _text(self, line: bytes) -> str:
        if len(line) > MAX_LINE:
            raise self.fault(f"a line of more than {MAX_LINE} bytes")
        return line.decode("ascii", errors="backslashreplace")
