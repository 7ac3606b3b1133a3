"""Addresses of files on web servers, with the user and password that go with them."""

from __future__ import annotations

import os
import re
import urllib.parse

from reconciler.core.errors import StoreError, UsageError
from reconciler.core.values import field, value

PORTS = {"http": 80, "https": 443}
_NOT_IN_A_URL = re.compile(r"[^!-~]")


class WebError(StoreError):
    """A file that could not be had. `passing`: another try may have it."""

    def __init__(self, message: str, hint: str | None = None, passing: bool = False) -> None:
        super().__init__(message, hint)
        self.passing = passing


@value
class Address:
    """A URL in its parts. `str()` is for people: without user and password, and without a query, which on the way to
    where a server redirects to is often a key of its own."""

    scheme: str
    host: str
    port: int
    path: str  # with its query
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address written `url`; UsageError, which does not show a password, when it is no http or https URL."""
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise UsageError("a URL that cannot be read", "https://[USER:PASSWORD@]HOST[:PORT]/PATH") from None
        if parts.scheme not in PORTS or not host or _NOT_IN_A_URL.search(url):
            shown = url if "@" not in url else f"{parts.scheme}://…"
            raise UsageError(f"'{shown[:200]}' is no http or https URL")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        user = None if parts.username is None else urllib.parse.unquote(parts.username)
        password = None if parts.password is None else urllib.parse.unquote(parts.password)
        return cls(parts.scheme, host, port or PORTS[parts.scheme], path, user, password)

    def __str__(self) -> str:
        path, mark, _ = self.path.partition("?")
        return f"{self.scheme}://{self.authority}{path}{mark and '?…'}"

    @property
    def url(self) -> str:
        """All of it but user and password."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    def below(self, relative: str) -> Address:
        """The address of a file of this one, which is a directory's; the query stays out."""
        base = self.path.partition("?")[0].rstrip("/")
        return Address(*self.origin, f"{base}/{relative}", self.user, self.password)

    def redirected(self, location: str) -> Address:
        """Where `location` leads from here; WebError for anywhere that it must not."""
        try:
            target = urllib.parse.urljoin(self.url, location)
        except ValueError:
            raise WebError(f"{self}: it redirects to what is no URL") from None
        scheme = target.partition(":")[0].lower()
        if scheme not in PORTS:
            raise WebError(f"{self}: it redirects to {scheme}:, which is refused")
        if self.scheme == "https" and scheme != "https":
            raise WebError(f"{self}: it redirects from https to http, which is refused")
        try:
            parsed = Address.parse(target)
        except UsageError:
            raise WebError(f"{self}: it redirects to what is no URL") from None
        # Whose password it is: that of the server that was named, and of no other.
        user, password = (self.user, self.password) if parsed.origin == self.origin else (None, None)
        return Address(*parsed.origin, parsed.path, user, password)

    def credentials(self) -> tuple[str, str] | None:
        """User and password, of the URL or of netrc."""
        if self.user is not None:
            return self.user, self.password or ""
        return _from_netrc(self.host)


def _from_netrc(host: str) -> tuple[str, str] | None:
    import netrc

    file = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    if not os.path.isfile(file):
        return None
    try:
        found = netrc.netrc(file).hosts.get(host)
    except (OSError, ValueError, netrc.NetrcParseError):
        raise WebError(f"{file}: it cannot be read as a netrc file") from None
    return None if found is None else (found[0] or "", found[2] or "")
