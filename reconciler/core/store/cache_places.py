"""Where the files of a cache are: on a web server, or in a directory."""

from __future__ import annotations

import os
import stat
import urllib.parse
from typing import Union

from reconciler.core.errors import StoreError, UsageError
from reconciler.core.store.cache_archive import File
from reconciler.core.store.url import Address
from reconciler.core.store.web import Patience, Web


def place(url: str, patience: Patience) -> Place:
    """The place at `url`; UsageError when that is none for a cache."""
    scheme = url.partition(":")[0].lower()
    if url.startswith("/") or scheme == "file":
        return Folder(url)
    if scheme in ("http", "https"):
        return Site(url, patience)
    raise UsageError(f"'{scheme[:40]}' is no place for a cache", "a cache is at an http://, https:// or file:// URL")


class Site:
    """A cache on a web server."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._address = Address.parse(url)
        if "?" in self._address.path:
            raise UsageError(f"{self._address}: the URL of a cache has no parameters", "leave out what begins with '?'")
        self._web = Web(patience)

    def __str__(self) -> str:
        return str(self._address).rstrip("/")

    @property
    def public(self) -> str | None:
        """Its URL, for others to ask it too; None where that holds a user and password, which stay here."""
        return self._address.url.rstrip("/") if self._address.user is None else None

    def shown(self, name: str) -> str:
        return str(self._address.below(name))

    def open(self, name: str, small: bool) -> File | None:
        return self._web.get(self._address.below(name), small)

    def close(self) -> None:
        self._web.close()


class Folder:
    """A cache in a directory."""

    def __init__(self, url: str) -> None:
        path = url
        if not url.startswith("/"):
            parts = urllib.parse.urlsplit(url)
            if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query:
                raise UsageError(f"'{url[:200]}' is no directory", "file:///DIRECTORY, with nothing else")
            path = urllib.parse.unquote(parts.path)
        self.directory = os.path.normpath(path)

    def __str__(self) -> str:
        return f"file://{self.directory}"

    @property
    def public(self) -> str | None:
        """None: a directory of this machine is nothing to others."""
        return None

    def shown(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def open(self, name: str, small: bool) -> File | None:  # noqa: ARG002  (a disk is as fast as it is)
        path = self.shown(name)
        try:
            return _DiskFile(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error

    def close(self) -> None: ...


class _DiskFile:
    def __init__(self, path: str) -> None:
        self._path = path
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise StoreError(f"{path}: it is no file")
        self._file = open(fd, "rb", buffering=0)  # noqa: SIM115  (`close` closes it)
        self.length: int | None = status.st_size

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        self._file.close()


Place = Union[Site, Folder]
