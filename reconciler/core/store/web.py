"""Files from web servers: HTTP/1.1 and HTTPS as caches need them, with bounds on everything.

A connection is used again for the next file; several threads have several. Certificates are verified (SSL_CERT_FILE or
NIX_SSL_CERT_FILE may name the authorities). http_proxy, https_proxy, all_proxy and no_proxy hold; a user and password
come from the URL or from ~/.netrc ($NETRC), go to that server alone, and are never shown. Redirects lead to http and
https only, and never from https to http.

A server may fall silent, send its answer byte by byte, close early, send too much: each ends with a WebError in time,
which says whether it is worth another try.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import os
import random
import socket
import ssl
import threading
import time
from types import TracebackType
from typing import Any, Callable, TypeVar, Union

from reconciler.core.errors import UsageError
from reconciler.core.store.url import Address, WebError
from reconciler.core.values import value

__all__ = ["Address", "Patience", "Web", "WebError", "again"]

T = TypeVar("T")

USER_AGENT = "reconciler"
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_DRAIN = 64 * 1024  # of an answer that is not wanted: reading it is cheaper than another connection


@value
class Patience:
    """How long a server is waited for (seconds), and how often it is asked."""

    connect: float = 10.0
    silence: float = 30.0  # without one byte
    answer: float = 60.0  # for the head of an answer, and for the whole of a small one
    least_rate: float = 1024.0  # bytes a second, over each `window` spent waiting for a body
    window: float = 30.0
    attempts: int = 5
    pause: float = 0.4  # before the second attempt; twice as long before each further one, give or take a half


def again(patience: Patience, call: Callable[[], T]) -> T:
    """What `call` returns; called again after a pause while it ends with an error that may pass."""
    attempt = 1
    while True:
        try:
            return call()
        except WebError as error:
            if not error.passing:
                raise
            if attempt >= patience.attempts:
                tried = f" ({attempt} attempts)" if attempt > 1 else ""
                raise WebError(f"{error.message}{tried}", error.hint, passing=True) from error
        time.sleep(patience.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311  (jitter)
        attempt += 1


# --- time -------------------------------------------------------------------------------------------------------------


class _Pace:
    """The clock of one connection: how long the next read may wait, and whether the answer comes fast enough.

    Only time spent waiting for the server counts: whoever is slow to take the data does not make the server slow.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._deadline: float | None = None
        self._waited = self._got = 0.0

    def begin(self) -> None:
        """A request is sent: its answer has to be there in time."""
        self._deadline = time.monotonic() + self._patience.answer

    def stream(self) -> None:
        """From now on it is enough that data comes."""
        self._deadline = None
        self._waited = self._got = 0.0

    def allowance(self) -> float:
        if self._deadline is None:
            return self._patience.silence
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"the answer took longer than {self._patience.answer:g} s")
        return min(left, self._patience.silence)

    def read(self, seconds: float, count: int) -> None:
        self._waited += seconds
        self._got += count
        if self._waited < self._patience.window:
            return
        rate = self._got / self._waited
        if self._deadline is None and rate < self._patience.least_rate:
            raise TimeoutError(f"it sends {rate:.0f} bytes a second; less than {self._patience.least_rate:.0f}")
        self._waited = self._got = 0.0


class _Raw(io.RawIOBase):
    """What comes from a socket, each read at the connection's pace."""

    def __init__(self, sock: socket.socket, pace: _Pace) -> None:
        self._socket = sock
        self._pace = pace
        self._inner = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._pace.allowance())
        began = time.monotonic()
        count: int | None = self._inner.readinto(buffer)
        self._pace.read(time.monotonic() - began, count or 0)
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


class _Socket:
    """A socket whose files are read at the connection's pace."""

    def __init__(self, sock: socket.socket, pace: _Pace) -> None:
        self._socket = sock
        self._pace = pace

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self._socket, self._pace))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _Plain(http.client.HTTPConnection):
    pace: _Pace

    def connect(self) -> None:
        super().connect()
        self.sock: Any = _Socket(self.sock, self.pace)


class _Encrypted(http.client.HTTPSConnection):
    pace: _Pace

    def connect(self) -> None:
        super().connect()
        self.sock: Any = _Socket(self.sock, self.pace)


_Connection = Union[_Plain, _Encrypted]


# --- answers ----------------------------------------------------------------------------------------------------------


class Answer:
    """A file as it comes: a Reader, to be closed. `length`: its bytes, where the server says so."""

    def __init__(self, web: Web, key: object, connection: _Connection, response: http.client.HTTPResponse, shown: str):
        self._web = web
        self._key = key
        self._connection = connection
        self._response = response
        self._shown = shown
        self._ended = False
        self.length = response.length
        self.done = 0

    def read(self, size: int, /) -> bytes:
        wanted = size if self.length is None else min(size, self.length - self.done)
        if self._ended or wanted <= 0:
            return b""
        with _as_web_error(self._shown):
            data = self._response.read1(wanted)
        self.done += len(data)
        if not data:
            self._ended = True
            if self.length is not None:
                raise WebError(
                    f"{self._shown}: it was cut short after {self.done} of {self.length} bytes", passing=True
                )
        return data

    def stream(self) -> None:
        """No deadline for the whole: it is enough that data comes."""
        self._connection.pace.stream()

    def close(self) -> None:
        """Done; the connection is kept for the next file when this one was read to its end."""
        whole = self._ended if self.length is None else self.done == self.length
        keep = whole and not self._response.will_close
        self._response.close()
        if keep:
            self._web.keep(self._key, self._connection)
        else:
            self._connection.close()

    def settle(self) -> None:
        """Close an answer whose body is not wanted."""
        with contextlib.suppress(WebError):
            while self.done <= _DRAIN and self.read(_DRAIN):
                pass
        self.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Web:
    """Connections to servers, kept open between files. Safe for several threads; `close` when done."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self._idle: dict[Any, list[_Connection]] = {}
        self._guard = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def get(self, address: Address, small: bool = False) -> Answer | None:
        """The file at `address`; None where there is none (403, 404, 410). A `small` one has to be there, whole, within
        `patience.answer`. WebError for everything else."""
        for _ in range(MAX_REDIRECTS + 1):
            answer, response = self._ask(address)
            status = response.status
            if status == 200:
                return self._checked(answer, response, address, small)
            location = response.headers.get("Location")
            # Nothing of what such an answer says is shown: a server's words may be anything.
            answer.settle()
            if status in (403, 404, 410):
                return None
            if status not in _REDIRECTS or location is None:
                raise _refusal(address, status)
            address = address.redirected(location)
        raise WebError(f"{address}: more than {MAX_REDIRECTS} redirects")

    @staticmethod
    def _checked(answer: Answer, response: http.client.HTTPResponse, address: Address, small: bool) -> Answer:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            answer.close()
            raise WebError(f"{address}: Content-Encoding: '{encoding[:40]}', which was not asked for")
        if not small:
            answer.stream()
        return answer

    def _ask(self, address: Address) -> tuple[Answer, http.client.HTTPResponse]:
        """Send one request and read the answer's head. A kept connection may have been closed by the server meanwhile,
        which only shows when it is used: then a new one is made."""
        proxy = _proxy(address)
        key = (*address.origin, proxy and (*proxy.origin, proxy.user))
        while True:
            with self._guard:
                kept = self._idle.get(key, [])
                connection = kept.pop() if kept else None
            fresh = connection is None
            with _as_web_error(str(address)):
                if connection is None:
                    connection = self._connect(address, proxy)
                try:
                    connection.pace.begin()
                    response = self._request(connection, address, proxy)
                except (http.client.HTTPException, ConnectionError):
                    connection.close()
                    if fresh:
                        raise
                    continue
                except BaseException:
                    connection.close()
                    raise
            return Answer(self, key, connection, response, str(address)), response

    def _request(self, connection: _Connection, address: Address, proxy: Address | None) -> http.client.HTTPResponse:
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", "Host": address.authority}
        headers.update(_basic("Authorization", address.credentials()))
        plain_proxy = proxy is not None and address.scheme == "http"
        if plain_proxy and proxy is not None:
            headers.update(_basic("Proxy-Authorization", proxy.credentials()))
        connection.request("GET", address.url if plain_proxy else address.path, headers=headers)
        return connection.getresponse()

    def _connect(self, address: Address, proxy: Address | None) -> _Connection:
        host, port = (proxy.host, proxy.port) if proxy else (address.host, address.port)
        connection: _Connection
        if address.scheme == "https":
            connection = _Encrypted(host, port, timeout=self.patience.connect, context=self._tls())
            if proxy is not None:
                connection.set_tunnel(
                    address.host, address.port, _basic("Proxy-Authorization", proxy.credentials()) or None
                )
        else:
            connection = _Plain(host, port, timeout=self.patience.connect)
        connection.pace = _Pace(self.patience)
        return connection

    def _tls(self) -> ssl.SSLContext:
        with self._guard:
            if self._context is None:
                # OpenSSL itself knows SSL_CERT_FILE and SSL_CERT_DIR.
                self._context = ssl.create_default_context(cafile=os.environ.get("NIX_SSL_CERT_FILE") or None)
            return self._context

    def keep(self, key: Any, connection: _Connection) -> None:
        """For the next file from there. Only `Answer` calls this."""
        with self._guard:
            self._idle.setdefault(key, []).append(connection)

    def close(self) -> None:
        """Let go of the connections that are not in use."""
        with self._guard:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()


def _basic(name: str, credentials: tuple[str, str] | None) -> dict[str, str]:
    if credentials is None:
        return {}
    return {name: f"Basic {base64.b64encode(':'.join(credentials).encode()).decode()}"}


def _proxy(address: Address) -> Address | None:
    from urllib import request

    proxies = request.getproxies_environment()
    given = proxies.get(address.scheme) or proxies.get("all")
    bypassed = request.proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed knows it for macOS alone
    if not given or bypassed(f"{address.host}:{address.port}", proxies):
        return None
    try:
        proxy = Address.parse(given if "://" in given else f"http://{given}")
    except UsageError:
        proxy = None
    if proxy is None or proxy.scheme != "http":
        raise WebError(f"{address.scheme}_proxy: only proxies at http://HOST:PORT can be used")
    return proxy


# --- errors -----------------------------------------------------------------------------------------------------------


def _refusal(address: Address, status: int) -> WebError:
    if status in (401, 407):
        hint = "USER:PASSWORD@ in the URL, or a line in ~/.netrc"
        return WebError(f"{address}: it wants a user and a password, or others (status {status})", hint)
    return WebError(f"{address}: the server answers with status {status}", passing=status in _TRY_AGAIN)


@contextlib.contextmanager
def _as_web_error(shown: str) -> Any:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        hint = "another certificate authority is named by SSL_CERT_FILE"
        raise WebError(f"{shown}: the certificate is not trusted: {error.verify_message}", hint) from None
    except http.client.HTTPException as error:
        raise WebError(f"{shown}: {_broken(error)}", passing=True) from None
    except OSError as error:
        raise WebError(f"{shown}: {_reason(error)}", passing=True) from None
    except UnicodeError:
        raise WebError(f"{shown}: the server's name is none that there can be") from None


def _broken(error: http.client.HTTPException) -> str:
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed the connection without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "it was cut short"
    return f"what the server sends is not HTTP ({type(error).__name__})"


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the server's name has no address: {error.strerror}"
    if isinstance(error, TimeoutError) or type(error) is socket.timeout:
        said = str(error)
        return said if said.startswith(("it ", "the answer")) else "the server does not answer"
    if isinstance(error, ssl.SSLError):
        return f"no encrypted connection: {error.reason or error}"
    return error.strerror or str(error) or type(error).__name__
