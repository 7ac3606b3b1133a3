"""Servers of caches that fail, dawdle, lie or are somebody else."""

from __future__ import annotations

import base64
import http.server
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import ReconcilerError, StoreError, UsageError
from reconciler.core.store import web
from reconciler.core.store.binary_cache import BinaryCache, Caches
from reconciler.core.store.store import Store
from reconciler.core.store.substitute import substitute
from reconciler.core.store.web import Address, WebError
from tests.core.store import hostile_cache as hostile
from tests.core.store import web_server as wrong
from tests.core.store.hostile_cache import ARCHIVE, KEY, PATH
from tests.core.store.test_binary_cache import opened, read, signed, write
from tests.core.store.web_server import HASTY, IMPATIENT, Server, certificate, serving

INFO = "/nix-cache-info"
NARINFO = f"/{PATH.hash_part}.narinfo"
NAR = f"/{hostile.right().url}"
# What is refused or gives up must do so soon, whatever else the machine does.
SOON = 10.0


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write(tmp_path / "cache", signed(hostile.right()))


@pytest.fixture
def server(directory: Path) -> Iterator[Server]:
    with serving(directory) as running:
        yield running


@pytest.fixture
def cache(server: Server) -> Iterator[BinaryCache]:
    made = opened(server.url)
    yield made
    made.close()


# --- what passes ------------------------------------------------------------------------------------------------------

PASSING = {
    "status 500": wrong.status(500),
    "status 503": wrong.status(503),
    "status 429": wrong.status(429),
    "cut short": wrong.cut(7),
    "cut at the head": wrong.cut(0),
    "reset": wrong.reset(7),
    "no answer": wrong.refuse,
    "cut in chunks": wrong.chunked(whole=False),
    "no HTTP": wrong.raw(b"220 mail.example.org ESMTP\r\n"),
}
DAWDLING = {
    "silence": wrong.silent,
    "silence in the body": wrong.silent_body,
    "byte by byte": wrong.trickle,
    "a head byte by byte": wrong.trickle_head,
}


@pytest.mark.parametrize("name", [*PASSING, *DAWDLING])
@pytest.mark.parametrize("path", [NARINFO, NAR], ids=["narinfo", "nar"])
def test_what_may_pass_is_tried_again(name: str, path: str, server: Server, store: Store) -> None:
    cache = opened(server.url, patience=HASTY if name in DAWDLING else IMPATIENT)
    server.answers[path] = [(PASSING | DAWDLING)[name]]
    assert substitute(store, Caches([cache]), [PATH]).fetched == (PATH,)
    assert b"".join(store.nar(PATH)) == ARCHIVE
    assert server.asked.count(path) == 2
    cache.close()


def test_an_archive_without_a_length_that_is_cut_is_tried_again(
    cache: BinaryCache, server: Server, store: Store
) -> None:
    server.answers[NAR] = [wrong.unsized(whole=False)]
    assert substitute(store, Caches([cache]), [PATH]).fetched == (PATH,)
    assert server.asked.count(NAR) == 2


@pytest.mark.parametrize("name", [*PASSING, *DAWDLING])
def test_what_does_not_pass_is_given_up_in_time_and_the_next_cache_asked(
    name: str, server: Server, store: Store, tmp_path: Path
) -> None:
    server.always(NAR, (PASSING | DAWDLING)[name])
    heard: list[ReconcilerError] = []
    cache = opened(server.url, priority=1, patience=HASTY if name in DAWDLING else IMPATIENT)
    other = opened(write(tmp_path / "other", signed(hostile.right())), priority=2)
    began = time.monotonic()
    assert substitute(store, Caches([cache, other], heard.append), [PATH]).fetched == (PATH,)
    assert time.monotonic() - began < SOON
    (error,) = heard
    assert f"{server.url}{NAR}: " in error.message
    assert error.message.endswith(f"({cache.patience.attempts} attempts)")
    cache.close()


def test_nothing_of_a_path_stays_when_no_cache_gives_it(cache: BinaryCache, server: Server, store: Store) -> None:
    server.always(NAR, wrong.cut(100))
    with pytest.raises(StoreError, match=r"cut short after 100 of 220 bytes \(3 attempts\)"):
        substitute(store, Caches([cache]), [PATH])
    assert not store.is_valid(PATH)
    assert set(os.listdir(store.store_dir)) <= {".links"}


def test_the_pauses_between_attempts_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    def fail() -> None:
        raise WebError("no", passing=True)

    for _ in range(2):
        with pytest.raises(WebError):
            web.again(web.Patience(attempts=4, pause=1.0), fail)
    first, second = slept[:3], slept[3:]
    assert first != second
    assert all(low <= pause <= 3 * low for low, pause in zip((0.5, 1.0, 2.0), first, strict=True))


def test_a_server_that_is_gone_is_asked_for_a_few_paths_and_then_no_more(directory: Path, tmp_path: Path) -> None:
    with serving(directory) as server:
        gone, there = opened(server.url, priority=1), opened(directory, priority=2)
        caches = Caches([gone, there])
        server.always("*", wrong.status(503))
        for path in hostile.many(10):
            with pytest.raises(StoreError, match=r"the server answers with status 503 \(3 attempts\)"):
                caches.find(path)
        assert len(server.asked) == IMPATIENT.attempts * Caches.GIVE_UP
        assert caches.find(PATH) is not None
        gone.close()


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_path_that_the_server_does_not_have_is_none_at_once(code: int, cache: BinaryCache, server: Server) -> None:
    server.always(NARINFO, wrong.status(code))
    assert cache.narinfo(PATH) is None
    assert server.asked == [INFO, NARINFO]
    assert server.connections == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [(401, "it wants a user and a password"), (407, "it wants a user"), (400, "status 400"), (501, "status 501")],
)
def test_a_refusal_is_told_with_its_status_and_not_tried_again(
    code: int, said: str, cache: BinaryCache, server: Server
) -> None:
    server.always(NARINFO, wrong.status(code))
    with pytest.raises(WebError, match=said):
        cache.narinfo(PATH)
    assert server.asked.count(NARINFO) == 1


# --- lies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (wrong.instead(hostile.FILE[:-1]), "FileSize: the file has 219 bytes, not 220"),
        (wrong.instead(hostile.FILE + b"x"), "FileSize: the file has 221 bytes, not 220"),
        (wrong.lie(100), "FileSize: the file has 320 bytes, not 220"),
        (wrong.lie(-100), "FileSize: the file has 120 bytes, not 220"),
        (wrong.unsized(b"\0" * 100_000), "FileSize: the file is longer than 220 bytes"),
        (wrong.endless, "FileSize: the file is longer than 220 bytes"),
        (wrong.instead(hostile.FILE[:-1] + b"x"), "it is not xz, or damaged|FileHash"),
        (wrong.instead(hostile.FILE, Content_Encoding="gzip"), "Content-Encoding: 'gzip', which was not asked for"),
        (wrong.status(404), "the archive of .* is not there, though the cache says that it is"),
    ],
)
def test_a_server_that_sends_something_else_is_refused_and_the_next_cache_taken(
    *, answer: wrong.Answer, said: str, cache: BinaryCache, server: Server, store: Store, tmp_path: Path
) -> None:
    server.always(NAR, answer)
    with pytest.raises(ReconcilerError, match=said):
        substitute(store, Caches([cache]), [PATH])
    assert not store.is_valid(PATH)
    assert server.asked.count(NAR) == 1
    other = opened(write(tmp_path / "other", signed(hostile.right())))
    assert substitute(store, Caches([cache, other]), [PATH]).fetched == (PATH,)


def test_a_narinfo_without_an_end_is_not_read_for_ever(cache: BinaryCache, server: Server) -> None:
    server.always(NARINFO, wrong.endless)
    began = time.monotonic()
    with pytest.raises(ReconcilerError, match=r"more than the 4194304 bytes|the answer took longer"):
        cache.narinfo(PATH)
    assert time.monotonic() - began < SOON


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_server_is_followed(
    code: int, cache: BinaryCache, server: Server, directory: Path
) -> None:
    with serving(directory) as other:
        server.always(NAR, wrong.redirect(f"{other.url}{NAR}", code))
        assert read(cache) == ARCHIVE
        assert other.asked == [NAR]


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("file:///etc/passwd", "it redirects to file:, which is refused"),
        ("ftp://127.0.0.1/x", "it redirects to ftp:, which is refused"),
        ("gopher://127.0.0.1/x", "it redirects to gopher:, which is refused"),
        ("http://[/", "it redirects to what is no URL|redirects"),
        (NAR, "more than 5 redirects"),
        ("http://a..b/", "the server's name is none that there can be|has no address"),
    ],
)
def test_a_redirect_to_nowhere_is_refused(location: str, said: str, cache: BinaryCache, server: Server) -> None:
    server.always(NAR, wrong.redirect(location))
    with pytest.raises(WebError, match=said):
        read(cache)


def test_where_a_redirect_leads_is_told_without_its_query(cache: BinaryCache, server: Server) -> None:
    server.always(NAR, wrong.redirect("/there?key=canary"))
    server.always("/there?key=canary", wrong.status(400))
    with pytest.raises(WebError, match=r"/there\?…: the server answers with status 400") as caught:
        read(cache)
    assert "canary" not in caught.value.message


def test_a_redirect_from_https_to_http_is_refused() -> None:
    secure = Address.parse("https://cache.example.org/x")
    with pytest.raises(WebError, match="it redirects from https to http, which is refused"):
        secure.redirected("http://cache.example.org/x")
    assert str(secure.redirected("/y")) == "https://cache.example.org/y"


# --- manners ----------------------------------------------------------------------------------------------------------


def test_one_connection_serves_many_files_and_a_new_one_is_made_when_it_was_closed(
    cache: BinaryCache, server: Server
) -> None:
    for _ in range(5):
        assert read(cache) == ARCHIVE
    assert server.connections == 1
    assert {name.lower(): text for name, text in server.headers[0].items()} == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "reconciler",
        "accept": "*/*",
        "accept-encoding": "identity",
    }

    def answer_and_hang_up(handler: wrong.Handler, data: bytes) -> None:
        wrong.instead(data)(handler, data)
        handler.hang_up()

    server.answers[NAR] = [answer_and_hang_up]
    assert read(cache) == read(cache) == ARCHIVE
    assert server.connections == 2


def test_bodies_without_a_length_and_in_chunks_are_read(cache: BinaryCache, server: Server) -> None:
    server.answers[NAR] = [wrong.chunked(), wrong.unsized(), wrong.chunked()]
    assert [read(cache) for _ in range(3)] == [ARCHIVE] * 3


def test_several_threads_have_several_connections(server: Server, cache: BinaryCache) -> None:
    cache.info()
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(read(cache))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ARCHIVE] * 4
    assert server.connections <= 5


# --- certificates -----------------------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_signed_is_refused_unless_it_is_named(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, file = certificate(tmp_path)
    for name in ("NIX_SSL_CERT_FILE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with serving(directory, context) as server:
        refused = opened(server.url)
        with pytest.raises(WebError, match=rf"{server.url}/nix-cache-info: the certificate is not trusted: ") as caught:
            refused.narinfo(PATH)
        assert caught.value.hint == "another certificate authority is named by SSL_CERT_FILE"
        assert server.connections == 1
        for name in ("NIX_SSL_CERT_FILE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(file))
            trusting = opened(server.url)
            assert read(trusting) == ARCHIVE
            trusting.close()
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "days", "said"), [("cache.example.org", 2, "127.0.0.1"), ("127.0.0.1", -1, "certificate has expired")]
)
def test_a_certificate_of_another_host_or_of_old_is_refused(
    *, name: str, days: int, said: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, file = certificate(tmp_path, name, days)
    monkeypatch.setenv("NIX_SSL_CERT_FILE", str(file))
    with (
        serving(directory, context) as server,
        pytest.raises(WebError, match=f"the certificate is not trusted: .*{said}"),
    ):
        opened(server.url).narinfo(PATH)


def test_a_server_that_speaks_no_tls_is_told(server: Server) -> None:
    with pytest.raises(WebError, match=r"no encrypted connection|does not answer|closed"):
        opened(server.url.replace("http", "https")).narinfo(PATH)


# --- users and passwords ----------------------------------------------------------------------------------------------

PASSWORD = "canary%40word"


def authorization(headers: dict[str, str]) -> str:
    return base64.b64decode(headers.get("Authorization", "").removeprefix("Basic ")).decode()


def test_user_and_password_go_to_that_server_alone_and_are_never_shown(server: Server, directory: Path) -> None:
    url = server.url.replace("//", f"//ops:{PASSWORD}@")
    cache = opened(url)
    with serving(directory) as other:
        server.always(NAR, wrong.redirect(f"{other.url}{NAR}"))
        assert read(cache) == ARCHIVE
        assert {authorization(headers) for headers in server.headers} == {"ops:canary@word"}
        assert [authorization(headers) for headers in other.headers] == [""]
    server.always(NARINFO, wrong.status(401))
    with pytest.raises(WebError) as caught:
        cache.narinfo(PATH)
    shown = f"{caught.value!r} {caught.value.hint} {cache} {cache.__dict__} {Address.parse(url)!r}"
    assert server.url in shown
    assert "canary" not in shown
    with pytest.raises(UsageError) as wrong_url:
        BinaryCache(f"http://ops:{PASSWORD}@bad host/")
    assert "canary" not in f"{wrong_url.value!r}"
    cache.close()


def test_netrc_has_them_too(
    cache: BinaryCache, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".netrc"
    file.write_text("machine 127.0.0.1 login ops password word\nmachine other login x password y\n")
    file.chmod(0o600)
    assert read(cache) == ARCHIVE
    assert {authorization(headers) for headers in server.headers} == {"ops:word"}
    monkeypatch.setenv("NETRC", str(tmp_path / "another"))
    assert read(cache) == ARCHIVE
    assert authorization(server.headers[-1]) == ""
    (tmp_path / "another").write_text("machine 127.0.0.1 what")
    with pytest.raises(WebError, match="another: it cannot be read as a netrc file"):
        cache.narinfo(PATH)


# --- proxies ----------------------------------------------------------------------------------------------------------


class Proxy(http.server.ThreadingHTTPServer):
    """A proxy that forwards what it is asked for and remembers it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Forwarder)
        self.asked: list[str] = []
        self.authorizations: list[str] = []


class Forwarder(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.remember()
        target = Address.parse(self.path)
        with socket.create_connection((target.host, target.port)) as other:
            other.sendall(f"GET {target.path} HTTP/1.0\r\nHost: {target.authority}\r\n\r\n".encode())
            while data := other.recv(65536):
                self.wfile.write(data)

    def do_CONNECT(self) -> None:
        self.remember()
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            ends = {self.connection: other, other: self.connection}
            while True:
                for ready in select.select(list(ends), [], [], 5)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    ends[ready].sendall(data)

    def remember(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.authorizations.append(self.headers.get("Proxy-Authorization", ""))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    running = Proxy()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_proxies_of_the_environment_are_used_and_passed_by(
    proxy: Proxy, server: Server, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened(server.url)
    place = f"http://ops:{PASSWORD}@127.0.0.1:{proxy.server_address[1]}"
    monkeypatch.setenv("http_proxy", place)
    assert read(cache) == ARCHIVE
    assert proxy.asked == [f"GET {server.url}{path}" for path in (INFO, NARINFO, NAR)]
    assert {authorization({"Authorization": text}) for text in proxy.authorizations} == {"ops:canary@word"}
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert read(cache) == ARCHIVE
    assert len(proxy.asked) == 3
    monkeypatch.delenv("no_proxy")
    context, file = certificate(tmp_path)
    monkeypatch.setenv("NIX_SSL_CERT_FILE", str(file))
    monkeypatch.setenv("all_proxy", place)
    with serving(directory, context) as secure:
        encrypted = opened(secure.url)
        assert read(encrypted) == ARCHIVE
        assert proxy.asked[3:] == [f"CONNECT 127.0.0.1:{secure.port}"]
        encrypted.close()
    monkeypatch.setenv("http_proxy", f"socks5://ops:{PASSWORD}@127.0.0.1:1")
    with pytest.raises(WebError, match="http_proxy: only proxies at http://HOST:PORT can be used") as caught:
        cache.narinfo(PATH)
    assert "canary" not in caught.value.message
    cache.close()


def test_a_proxy_that_is_not_there_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(WebError, match="Connection refused"):
            BinaryCache(server.url, [KEY.public], patience=IMPATIENT).narinfo(PATH)
