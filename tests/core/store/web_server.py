"""A web server that serves a directory rightly until it is told, for a path, how to do it wrongly: real HTTP over real
sockets, and HTTPS with a certificate that nobody signed."""

from __future__ import annotations

import contextlib
import datetime
import functools
import http.server
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reconciler.core.store.web import Patience

# Quick to try again, and patient enough with right answers for a machine that does other things too.
IMPATIENT = Patience(connect=5, silence=5, answer=5, attempts=3, pause=0.01)
# For what never comes.
HASTY = Patience(connect=5, silence=0.3, answer=0.6, least_rate=2000, window=0.3, attempts=2, pause=0.01)

Answer = Callable[["Handler", bytes], None]


class Server(http.server.ThreadingHTTPServer):
    """Serves `directory`. `answers`: by path, what is done at the first request for it, the second, …; after those, and
    for all other paths, the file is sent. A path of `*` is for every path without answers of its own."""

    daemon_threads = True

    def __init__(self, directory: Path, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.directory = directory
        self.scheme = "http" if context is None else "https"
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.over = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def always(self, path: str, answer: Answer) -> None:
        """Do this at every request for `path`."""
        self.answers[path] = [answer] * 1000

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is expected here."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers.items()))
        rest = self.server.answers.get(self.path) or self.server.answers.get("*")
        file = self.server.directory / self.path.lstrip("/").partition("?")[0]
        data = file.read_bytes() if file.is_file() else None
        if rest:
            rest.pop(0)(self, data or b"")
        elif data is None:
            status(404)(self, b"")
        else:
            self.head(200, len(data))
            self.wfile.write(data)

    def head(self, code: int, length: int | None, **headers: str) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(directory: Path, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server of `directory` for as long as the block lasts."""
    server = Server(directory, context)
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


# --- ways to answer ---------------------------------------------------------------------------------------------------


def status(code: int, body: bytes = b"<html>no</html>", **headers: str) -> Answer:
    def answer(handler: Handler, _: bytes) -> None:
        handler.head(code, len(body), **headers)
        handler.wfile.write(body)

    return answer


def redirect(location: str, code: int = 302) -> Answer:
    return status(code, Location=location)


def cut(at: int) -> Answer:
    """The right length, and only the first `at` bytes."""

    def answer(handler: Handler, data: bytes) -> None:
        handler.head(200, len(data))
        handler.wfile.write(data[:at])
        handler.hang_up()

    return answer


def reset(at: int) -> Answer:
    """A connection reset after `at` bytes of the body."""

    def answer(handler: Handler, data: bytes) -> None:
        handler.head(200, len(data))
        handler.wfile.write(data[:at])
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.hang_up()

    return answer


def refuse(handler: Handler, _: bytes) -> None:
    """The connection closed without an answer."""
    handler.hang_up()


def lie(difference: int) -> Answer:
    """A length that is not that of the body."""

    def answer(handler: Handler, data: bytes) -> None:
        handler.head(200, len(data) + difference)
        handler.wfile.write(data)
        handler.hang_up()

    return answer


def instead(body: bytes, **headers: str) -> Answer:
    """Another body."""

    def answer(handler: Handler, _: bytes) -> None:
        handler.head(200, len(body), **headers)
        handler.wfile.write(body)

    return answer


def unsized(extra: bytes = b"", whole: bool = True) -> Answer:
    """No length: the body ends where the connection does."""

    def answer(handler: Handler, data: bytes) -> None:
        handler.head(200, None)
        handler.wfile.write((data if whole else data[: len(data) // 2]) + extra)
        handler.hang_up()

    return answer


def endless(handler: Handler, data: bytes) -> None:
    """The body, and then zeros for as long as somebody reads."""
    handler.head(200, None)
    handler.wfile.write(data)
    with contextlib.suppress(OSError):
        while not handler.server.over.is_set():
            handler.wfile.write(bytes(65536))
    handler.hang_up()


def chunked(whole: bool = True) -> Answer:
    def answer(handler: Handler, data: bytes) -> None:
        handler.head(200, None, Transfer_Encoding="chunked")
        for start in range(0, len(data) if whole else len(data) // 2, 1000):
            piece = data[start : start + 1000]
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if whole:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            handler.hang_up()

    return answer


def silent(handler: Handler, _: bytes) -> None:
    """Nothing, until the test is over."""
    handler.server.over.wait(20)
    handler.hang_up()


def silent_body(handler: Handler, data: bytes) -> None:
    handler.head(200, len(data))
    silent(handler, data)


def trickle(handler: Handler, data: bytes) -> None:
    """The body byte by byte, each well before the reader's patience for silence ends."""
    handler.head(200, len(data))
    _drip(handler, data)


def trickle_head(handler: Handler, _: bytes) -> None:
    """A head that never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    _drip(handler, b"X-Long: " + b"x" * 60_000)


def _drip(handler: Handler, data: bytes) -> None:
    with contextlib.suppress(OSError):
        for index in range(len(data)):
            handler.wfile.write(data[index : index + 1])
            handler.wfile.flush()
            if handler.server.over.wait(0.02):
                break
    handler.hang_up()


def raw(data: bytes) -> Answer:
    """Bytes that need not be HTTP."""

    def answer(handler: Handler, _: bytes) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(data)
        handler.hang_up()

    return answer


# --- certificates -----------------------------------------------------------------------------------------------------


def certificate(directory: Path, name: str = "127.0.0.1", days: int = 2) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate that it signed itself, and the file that holds the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=3))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file, key_file = directory / "certificate.pem", directory / "key.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return context, file
