"""builtin:fetchurl: one file from a server into a fixed output.

Variables: `url`, `urls` (the same and its mirrors, tried in their order), `executable` ("1"), `unpack` (refused).
Certificates are verified, redirects followed, and everything that may pass by itself (no connection, a time-out, a
short body, status 408, 429 and 5xx) is tried again. What comes is checked against the derivation's hash like any fixed
output.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Callable

from reconciler.core.errors import BuildError, FormatError

ATTEMPTS = 5
FIRST_PAUSE = 0.5
SILENCE_SECONDS = 30.0
_CHUNK = 256 * 1024
_SCHEMES = ("http", "https", "file")
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)


class _CancelledError(BuildError):
    pass


def fetchurl(
    variables: Mapping[str, str],
    out: str,
    say: Callable[[str], None],
    cancelled: Callable[[], bool],
    pause: float = FIRST_PAUSE,
) -> None:
    """Fetch into the new file `out`. BuildError when it cannot be had; `say` is told of each attempt."""
    urls = list(dict.fromkeys([*variables.get("url", "").split(), *variables.get("urls", "").split()])) or [""]
    if variables.get("unpack") == "1":
        raise BuildError(f"{urls[0]}: builtin:fetchurl with `unpack` is not supported")
    for url in urls:
        scheme = urllib.parse.urlsplit(url).scheme
        if scheme not in _SCHEMES:
            raise FormatError(f"'{url}' cannot be fetched: one of {', '.join(_SCHEMES)} is wanted")
    for url in urls[:-1]:
        try:
            _fetch_patiently(url, out, say, cancelled, pause)
            break
        except _CancelledError:
            raise
        except BuildError as error:
            say(f"{error.message}; trying the next mirror")
    else:
        _fetch_patiently(urls[-1], out, say, cancelled, pause)
    if variables.get("executable") == "1":
        os.chmod(out, 0o755)  # noqa: S103  what `executable` asks for


def _fetch_patiently(
    url: str, out: str, say: Callable[[str], None], cancelled: Callable[[], bool], pause: float
) -> None:
    """Fetch from one place, trying again what may pass."""
    for attempt in range(1, ATTEMPTS + 1):
        say(f"fetching {url}" if attempt == 1 else f"fetching {url}, attempt {attempt} of {ATTEMPTS}")
        try:
            _fetch(url, out, cancelled)
            break
        except _CancelledError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = _reason(error)
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if not _may_pass(error) or attempt == ATTEMPTS:
                raise BuildError(f"{url} cannot be fetched: {reason}", hint=_hint(error)) from error
            say(f"{reason}; trying again")
            _sleep(pause * 2 ** (attempt - 1), cancelled)


def _fetch(url: str, out: str, cancelled: Callable[[], bool]) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "reconciler", "Accept-Encoding": "identity"})  # noqa: S310  the scheme is checked
    with contextlib.suppress(FileNotFoundError):
        os.unlink(out)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=_tls()))
    with opener.open(request, timeout=SILENCE_SECONDS) as response, open(out, "xb") as file:
        expected = response.headers.get("Content-Length")
        got = 0
        while True:
            chunk = response.read(_CHUNK)
            if not chunk:
                break
            if cancelled():
                raise _CancelledError(f"{url}: the run was cancelled")
            file.write(chunk)
            got += len(chunk)
        if expected is not None and int(expected) != got:
            raise http.client.IncompleteRead(b"", int(expected) - got)


def _tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ.get("NIX_SSL_CERT_FILE") or None)


def _sleep(seconds: float, cancelled: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if cancelled():
            raise _CancelledError("the run was cancelled")
        time.sleep(min(0.1, seconds))


def _may_pass(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _TRY_AGAIN
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        return not isinstance(reason, (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError))
    return not isinstance(error, (FileNotFoundError, PermissionError))


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        inner = error.reason
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {inner.verify_message}"
        if isinstance(inner, socket.gaierror):
            return f"the server's name has no address: {inner.strerror}"
        return str(getattr(inner, "strerror", None) or inner)
    if isinstance(error, http.client.IncompleteRead):
        return f"the body ended {error.expected or 'some'} bytes early" if error.expected else "the body was cut short"
    return str(error) or type(error).__name__


def _hint(error: Exception) -> str | None:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, ssl.SSLCertVerificationError):
        return "another certificate authority is named by NIX_SSL_CERT_FILE"
    return None
