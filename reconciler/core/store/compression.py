"""The ways in which archives in a cache are compressed: none, xz, bzip2, gzip, zstd.

Reading is bounded in memory and in what comes out, so that a small file cannot become an endless one. All are of the
standard library but zstd: that is libzstd, which lies wherever apt, dpkg or rpm is, called directly; else the standard
library's own of Python 3.14; else it cannot be had, which is said.
"""

from __future__ import annotations

import zlib
from typing import Any, Callable, Protocol

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix.nar_format import CHUNK, Reader

# By method: what its files are called at the end.
SUFFIXES = {"none": "", "xz": ".xz", "bzip2": ".bz2", "gzip": ".gz", "zstd": ".zst"}
MAX_MEMORY = 128 * 1024 * 1024  # bytes that a decoder may take; `xz -9` makes it take 65 MiB

_XZ_LEVEL, _BZIP2_LEVEL, _GZIP_LEVEL, _ZSTD_LEVEL = 6, 9, 9, 3
_GZIP_WINDOW = 31  # zlib's number for the largest window, with gzip's head and end


class CutShortError(FormatError):
    """Compressed data that ends too early: what a broken transfer leaves, and worth another try."""


class Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Decoder(Protocol):
    """One compressed stream. After `eof`, what was given too much is in `unused_data`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def check(method: str) -> None:
    """StoreError when archives of this method cannot be read here, or by anybody."""
    if method != "none":
        _decoder(method)


def compressor(method: str) -> Compressor:
    """A compressor; the same bytes make the same file. StoreError as for `check`."""
    if method == "none":
        return _Unchanged()
    made: Compressor = _made(method, {"xz": _xz, "bzip2": _bzip2, "gzip": _gzip, "zstd": _zstd})
    return made


class Decompressed:
    """A Reader of what `stream` decompresses to: at most `limit` bytes, else FormatError.

    Several streams one after the other are one, as the programs xz, bzip2, gzip and zstd have it.
    """

    def __init__(self, method: str, stream: Reader, limit: int) -> None:
        self._method = method
        self._stream = stream
        self._limit = limit
        # None for what is not compressed.
        self._decoder = None if method == "none" else _decoder(method)
        self._rest = b""  # taken from the stream, and not yet given to the decoder
        self._begun = False
        self.done = 0  # bytes that came out

    def read(self, size: int, /) -> bytes:
        # One more than is allowed tells that there are more.
        data = self._next(max(1, min(size, self._limit + 1 - self.done)))
        self.done += len(data)
        if self.done > self._limit:
            raise FormatError(f"it decompresses to more than the {self._limit} bytes that it should have")
        return data

    def _next(self, size: int) -> bytes:
        if self._decoder is None:
            return self._stream.read(size)
        while True:
            if self._decoder.eof:
                following = self._following(self._decoder)
                if following is None:
                    return b""
                self._decoder = following
            data = b""
            if self._decoder.needs_input:
                data = self._rest or self._stream.read(CHUNK)
                self._rest = b""
                if not data:
                    raise CutShortError(f"its {self._method} data is cut short")
            try:
                out = self._decoder.decompress(data, size)
            except _errors(self._method) as error:
                raise FormatError(f"it is not {self._method}, or damaged: {error}") from None
            if out:
                return out

    def _following(self, ended: _Decoder) -> _Decoder | None:
        """The decoder of the next stream, where there is one."""
        self._rest = ended.unused_data or self._stream.read(CHUNK)
        return _decoder(self._method) if self._rest else None


def _decoder(method: str) -> _Decoder:
    made: _Decoder = _made(method, {"xz": _unxz, "bzip2": _bunzip2, "gzip": _Gunzip, "zstd": _unzstd})
    return made


def _made(method: str, makers: dict[str, Callable[[], Any]]) -> Any:
    make = makers.get(method)
    if make is None:
        known = ", ".join(SUFFIXES)
        raise StoreError(f"Compression: '{method}' is not a method that can be used", hint=f"these can: {known}")
    try:
        return make()
    except ImportError as error:
        hint = "install libzstd (Debian: libzstd1)" if method == "zstd" else f"this Python was made without: {error}"
        raise StoreError(f"Compression: {method} cannot be had on this machine", hint) from None


def _errors(method: str) -> tuple[type[Exception], ...]:
    """What a decoder raises for data that is not its own."""
    if method == "xz":
        import lzma

        return (lzma.LZMAError, EOFError)
    return (OSError, EOFError, ValueError, zlib.error)


# --- of the standard library ------------------------------------------------------------------------------------------


def _xz() -> Compressor:
    import lzma

    return lzma.LZMACompressor(preset=_XZ_LEVEL)


def _unxz() -> _Decoder:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)


def _bzip2() -> Compressor:
    import bz2

    return bz2.BZ2Compressor(_BZIP2_LEVEL)


def _bunzip2() -> _Decoder:
    import bz2

    return bz2.BZ2Decompressor()


def _gzip() -> Compressor:
    return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)


class _Gunzip:
    """zlib's decoder with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_GZIP_WINDOW)
        self._full = False  # whether it may have more to give

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and not self._full

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._full = len(out) == max_length
        return out


class _Unchanged:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


# --- zstd -------------------------------------------------------------------------------------------------------------


def _zstd() -> Compressor:
    library = _library()
    return _ZstdCompressor(library) if library is not None else _of_python().ZstdCompressor(level=_ZSTD_LEVEL)


def _unzstd() -> _Decoder:
    library = _library()
    return _ZstdDecoder(library) if library is not None else _of_python().ZstdDecompressor()


def _of_python() -> Any:
    import importlib

    return importlib.import_module("compression.zstd")


_opened: Any = None


def _library() -> Any:
    """libzstd, its functions declared; None where there is none."""
    global _opened  # noqa: PLW0603  (opened once, at the first use: ctypes costs milliseconds)
    if _opened is None:
        import ctypes

        try:
            library: Any = ctypes.CDLL("libzstd.so.1")
        except OSError:
            return None
        pointer, number = ctypes.c_void_p, ctypes.c_size_t
        for name, result, arguments in (
            ("ZSTD_createDCtx", pointer, ()),
            ("ZSTD_freeDCtx", number, (pointer,)),
            ("ZSTD_decompressStream", number, (pointer, pointer, pointer)),
            ("ZSTD_createCCtx", pointer, ()),
            ("ZSTD_freeCCtx", number, (pointer,)),
            ("ZSTD_CCtx_setParameter", number, (pointer, ctypes.c_int, ctypes.c_int)),
            ("ZSTD_compressStream2", number, (pointer, pointer, pointer, ctypes.c_int)),
            ("ZSTD_isError", ctypes.c_uint, (number,)),
            ("ZSTD_getErrorName", ctypes.c_char_p, (number,)),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        sizes = (("size", number), ("position", number))
        library.In = type("In", (ctypes.Structure,), {"_fields_": (("at", ctypes.c_char_p), *sizes)})
        library.Out = type("Out", (ctypes.Structure,), {"_fields_": (("at", pointer), *sizes)})
        _opened = library
    return _opened


class _Context:
    """A context of libzstd, its output buffer, and what was given to it and not yet read."""

    def __init__(self, library: Any, kind: str) -> None:
        import ctypes

        self.library = library
        self._free = getattr(library, f"ZSTD_free{kind}Ctx")
        self.pointer = getattr(library, f"ZSTD_create{kind}Ctx")()
        if not self.pointer:
            raise MemoryError
        self._room = ctypes.create_string_buffer(CHUNK)
        # Addresses, and no ctypes.cast: what that returns refers to itself, and keeps its buffer until a collection.
        self._target = library.Out(ctypes.addressof(self._room), 0, 0)
        self._byref, self._string_at = ctypes.byref, ctypes.string_at
        self.given = b""

    def __del__(self) -> None:
        if self.pointer:
            self._free(self.pointer)

    def call(self, function: str, room: int, *more: int) -> tuple[bytes, int]:
        """Call a streaming function: what came out, at most `room` bytes, and what it returned."""
        source, target = self.library.In(self.given, len(self.given), 0), self._target
        target.size, target.position = min(room, CHUNK), 0
        result = self.checked(
            getattr(self.library, function)(self.pointer, self._byref(target), self._byref(source), *more)
        )
        self.given = self.given[source.position :]
        return self._string_at(target.at, target.position), result

    def checked(self, result: int) -> int:
        if self.library.ZSTD_isError(result):
            raise ValueError(self.library.ZSTD_getErrorName(result).decode(errors="replace"))
        return result


class _ZstdDecoder:
    """One frame. libzstd itself refuses windows of more than 128 MiB."""

    def __init__(self, library: Any) -> None:
        self._context = _Context(library, "D")
        self._full = False
        self.eof = False

    @property
    def needs_input(self) -> bool:
        return not self._context.given and not self._full

    @property
    def unused_data(self) -> bytes:
        return self._context.given

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._context.given += data
        room = min(max_length, CHUNK)
        out, left = self._context.call("ZSTD_decompressStream", room)
        self.eof = left == 0
        self._full = len(out) == room and not self.eof
        return out


class _ZstdCompressor:
    _LEVEL, _CHECKSUM, _CONTINUE, _END = 100, 201, 0, 2

    def __init__(self, library: Any) -> None:
        self._context = _Context(library, "C")
        for parameter, value in ((self._LEVEL, _ZSTD_LEVEL), (self._CHECKSUM, 1)):
            self._context.checked(library.ZSTD_CCtx_setParameter(self._context.pointer, parameter, value))

    def compress(self, data: bytes, /) -> bytes:
        self._context.given = data
        parts = []
        while self._context.given:
            parts.append(self._context.call("ZSTD_compressStream2", CHUNK, self._CONTINUE)[0])
        return b"".join(parts)

    def flush(self) -> bytes:
        parts = []
        left = 1
        while left:
            out, left = self._context.call("ZSTD_compressStream2", CHUNK, self._END)
            parts.append(out)
        return b"".join(parts)
