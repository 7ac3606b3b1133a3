"""builtin:fetchurl against servers that behave, misbehave, and lie."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reconciler.core.build import fetch
from reconciler.core.build.realise import realise
from reconciler.core.errors import BuildError, FormatError
from reconciler.core.nix.hashes import Hash
from reconciler.core.store.store import Store
from reconciler.packages.derive import fetchurl as derive_fetchurl
from reconciler.packages.specs import UrlSpec
from tests.oracle import RealNix

CONTENT = b"content\n" * 100_000


class Server(http.server.ThreadingHTTPServer):
    """Answers by path; remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.scheme = "http"

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is expected here."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        times = self.server.asked.count(self.path)
        if self.path == "/moved":
            self._answer(302, b"", Location=self.server.url("/file"))
        elif self.path.startswith("/missing"):
            self._answer(404, b"no")
        elif self.path == "/flaky" and times < 3:
            self._answer(503, b"later")
        elif self.path == "/broken":
            self._answer(500, b"never")
        elif self.path == "/short" or (self.path == "/short-once" and times == 1):
            self._answer(200, CONTENT[:1000], length=len(CONTENT))
        else:
            self._answer(200, CONTENT)

    def _answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        """Not into the tests' output."""


def serve(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve(Server())


def certificate(directory: Path) -> Path:
    """A certificate for 127.0.0.1 that its own key has signed, with the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / "server.pem"
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[Server]:
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"
    yield from serve(server)


def get(url: str, out: Path, **variables: str) -> list[str]:
    """Fetch without waiting between attempts; what was said."""
    said: list[str] = []
    fetch.fetchurl({"url": url, **variables}, str(out), said.append, lambda: False, pause=0.0)
    return said


@pytest.mark.parametrize(("path", "asked"), [("/file", 1), ("/moved", 1), ("/flaky", 3), ("/short-once", 2)], ids=str)
def test_what_can_be_had_is_fetched(server: Server, tmp_path: Path, path: str, asked: int) -> None:
    get(server.url(path), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert server.asked.count(path) == asked


@pytest.mark.parametrize(
    ("path", "reason", "asked"),
    [
        ("/missing", "the server says 404 Not Found", 1),
        ("/broken", "the server says 500 Internal Server Error", fetch.ATTEMPTS),
        ("/short", "the body ended 799000 bytes early", fetch.ATTEMPTS),
    ],
)
def test_what_cannot_be_had_is_an_error_with_the_reason(
    server: Server, tmp_path: Path, path: str, reason: str, asked: int
) -> None:
    with pytest.raises(BuildError) as error:
        get(server.url(path), tmp_path / "out")
    assert error.value.message == f"{server.url(path)} cannot be fetched: {reason}"
    assert len(server.asked) == asked


def test_a_server_that_is_not_there_is_an_error(server: Server, tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/file"
    with pytest.raises(BuildError, match=f"^{url} cannot be fetched: Connection refused$"):
        get(url, tmp_path / "out")


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_server: Server, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the certificate is not trusted: self-signed certificate"):
        get(tls_server.url("/file"), tmp_path / "out")
    assert tls_server.asked == []


def test_a_certificate_that_nix_is_told_to_trust_is_trusted(
    tls_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIX_SSL_CERT_FILE", str(tmp_path / "server.pem"))
    get(tls_server.url("/file"), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_file_can_be_fetched_as_a_program(server: Server, tmp_path: Path) -> None:
    get(server.url("/file"), tmp_path / "out", executable="1")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_urls_of_other_kinds_and_archives_to_unpack_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="one of http, https, file is wanted"):
        get("ftp://127.0.0.1/file", tmp_path / "out")
    with pytest.raises(BuildError, match="`unpack` is not supported"):
        get("http://127.0.0.1/file", tmp_path / "out", unpack="1")


def test_a_cancelled_run_stops_fetching(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cancelled"):
        fetch.fetchurl({"url": server.url("/file")}, str(tmp_path / "out"), lambda _: None, lambda: True)


def test_a_fetched_file_is_checked_and_registered(store: Store, nix: RealNix, server: Server) -> None:
    spec = UrlSpec((server.url("/file"),), "file.txt", Hash.sha256(CONTENT))
    drv = store.write_derivation(derive_fetchurl(spec).derivation, "file.txt")
    (info,) = realise(store, [drv]).outputs
    assert info.ca == f"fixed:{Hash.sha256(CONTENT).nix}"
    assert Path(store.real(info.path)).read_bytes() == CONTENT
    nix.verify()


def test_a_fetched_file_with_another_hash_is_refused(store: Store, server: Server) -> None:
    spec = UrlSpec((server.url("/file"),), "file.txt", Hash.sha256(b"something else"))
    drv = store.write_derivation(derive_fetchurl(spec).derivation, "file.txt")
    with pytest.raises(BuildError) as error:
        realise(store, [drv])
    assert f"  found   sha256:{Hash.sha256(CONTENT).base16}" in error.value.message
    assert error.value.message.endswith(f"\n  fetching {spec.urls[0]}")
    assert not store.is_valid(derive_fetchurl(spec).output)


def test_a_mirror_is_tried_when_the_first_place_fails(server: Server, tmp_path: Path) -> None:
    said = get(server.url("/missing"), tmp_path / "out", urls=f"{server.url('/missing')} {server.url('/file')}")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert any(line.endswith("; trying the next mirror") for line in said)


def test_when_no_mirror_has_it_the_last_error_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="404"):
        get(server.url("/missing"), tmp_path / "out", urls=server.url("/missing?again"))
