"""The files of a channel, as Nix channels have them: store-paths.xz, git-revision, binary-cache-url.

A channel on a server is read once an hour at most; what was read lies under the cache directory, and is used when the
server cannot be reached. A channel that is a directory is read as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import re
import time
from pathlib import Path

from reconciler.core import fs
from reconciler.core.build.fetch import fetchurl
from reconciler.core.errors import BuildError, UsageError
from reconciler.inventory.sets import ChannelSet
from reconciler.packages.store_paths import StorePathList

LIST = "store-paths.xz"
REVISION = "git-revision"
CACHE_URL = "binary-cache-url"
FRESH_SECONDS = 3600.0
MAX_LIST = 1 << 30  # bytes, unpacked; that of nixpkgs has 30 MB
_OFFICIAL = "https://channels.nixos.org/"
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_URL = re.compile(r"(https?|file)://")


class ChannelFiles:
    """The files of one channel. `project`: what a relative directory starts from; `cache`: where copies are kept."""

    def __init__(self, spec: ChannelSet, project: Path, cache: Path) -> None:
        self._spec = spec
        self.url = _url_of(spec, project)
        self._copies = cache / "channels" / hashlib.sha256(self.url.encode()).hexdigest()[:32]

    def paths(self) -> StorePathList:
        """The channel's list; UsageError when there is none to be had."""
        data = self._file(LIST)
        try:
            return StorePathList(_unpack(data).decode())
        except (lzma.LZMAError, EOFError, UnicodeDecodeError, ValueError) as error:
            raise UsageError(
                f"{self._spec.position}: {self.url}/{LIST} of set '{self._spec.name}' cannot be unpacked: {error}"
            ) from error

    def release(self) -> str:
        """What the channel says of its revision, the first 12 characters; empty when it says nothing."""
        with contextlib.suppress(UsageError):
            text = self._file(REVISION).decode(errors="replace").strip()
            return text[:12] if _WORD.fullmatch(text) else ""
        return ""

    def cache_url(self) -> str:
        """The URL of the channel's binary cache; UsageError when neither the set nor the channel says one."""
        if self._spec.cache is not None:
            return self._spec.cache
        text = self._file(CACHE_URL).decode(errors="replace").strip().rstrip("/")
        if not _URL.match(text):
            raise UsageError(
                f"{self._spec.position}: {self.url}/{CACHE_URL} does not hold the URL of a cache",
                "say it: `cache: URL`",
            )
        return text

    def _file(self, name: str) -> bytes:
        if self.url.startswith("file://"):
            return self._read(Path(self.url[len("file://") :]) / name)
        copy = self._copies / name
        if not _is_fresh(copy):
            try:
                self._fetch(name, copy)
            except BuildError as error:
                if not copy.exists():
                    hint = error.hint or f"set '{self._spec.name}' is the channel {self._spec.channel}"
                    raise UsageError(f"{self._spec.position}: {error.message}", hint) from error
        return self._read(copy)

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{self._spec.position}: {path} of set '{self._spec.name}': {error.strerror or error}",
                f"a channel has a file {LIST}",
            ) from error

    def _fetch(self, name: str, copy: Path) -> None:
        fs.ensure_directory(str(copy.parent))
        part = copy.with_name(f".{name}.{os.getpid()}")
        try:
            fetchurl({"url": f"{self.url}/{name}"}, str(part), _silent, _never)
            part.replace(copy)
        finally:
            part.unlink(missing_ok=True)


def _url_of(spec: ChannelSet, project: Path) -> str:
    if _URL.match(spec.channel):
        return spec.channel.rstrip("/")
    directory = project / spec.channel
    if directory.is_dir() or "/" in spec.channel:
        return f"file://{directory.absolute()}"
    if not _WORD.fullmatch(spec.channel):
        raise UsageError(f"{spec.position}: '{spec.channel}' is no channel", "nixos-25.05, a URL, or a directory")
    return _OFFICIAL + spec.channel


def _is_fresh(path: Path) -> bool:
    try:
        return 0 <= time.time() - path.stat().st_mtime < FRESH_SECONDS
    except OSError:
        return False


def _unpack(data: bytes) -> bytes:
    decompressor = lzma.LZMADecompressor()
    text = decompressor.decompress(data, MAX_LIST)
    if not decompressor.eof:
        raise EOFError("it is cut short, or larger than a gigabyte")
    return text


def _silent(_: str) -> None:
    pass


def _never() -> bool:
    return False
