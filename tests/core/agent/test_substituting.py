"""A host that fetches from binary caches by itself: what it believes, and what it leaves to the controller."""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.agent.messages import (
    BeginRequest,
    CacheMessage,
    MissingRequest,
    PathMessage,
    SubstituteReply,
    SubstituteRequest,
)
from reconciler.core.errors import FormatError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from reconciler.packages.cache import push
from reconciler.packages.keys import SecretKey
from reconciler.transport.client import AgentClient
from tests.conftest import make_writable
from tests.core.agent.agents import agent, messages
from tests.core.store import hostile_cache as hostile
from tests.core.store import web_server as wrong
from tests.core.store.test_store import add
from tests.core.store.web_server import Server, serving
from tests.oracle import RealNix
from tests.pythons import VERSIONS, interpreter

KEY = SecretKey("cache.test-1", b"k" * 32)
BEGIN = BeginRequest("d1", "tester", "")


class Made:
    """A cache of a small closure: `leaf` <- `middle` <- `top`, and `other`, which nothing else needs."""

    def __init__(self, directory: Path) -> None:
        self.cache = directory / "cache"
        with Store.open(str(directory / "source"), create=True) as store:
            self.leaf = store.add_text("leaf", b"a leaf\n")
            self.middle = add(store, "middle-1.0", nar.File(f"{self.leaf}\n".encode() * 500), (self.leaf,))
            self.top = add(store, "top-1.0", nar.File(f"{self.middle}".encode(), True), (self.middle,))
            self.other = add(store, "other-1.0", nar.File(os.urandom(600_000)))
            self.paths = messages(store, self.top, self.other)
            push(store, [self.top, self.other], str(self.cache), KEY, compression="xz")

    def narinfo(self, path: StorePath) -> Path:
        return self.cache / f"{path.hash_part}.narinfo"

    def archive(self, path: StorePath) -> str:
        text = self.narinfo(path).read_text()
        return "/" + next(line[5:] for line in text.splitlines() if line.startswith("URL: "))

    def asking(self, url: str, key: str = str(KEY.public)) -> SubstituteRequest:
        return SubstituteRequest(self.paths, (CacheMessage(url, (key,), 1),))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A host's root; what is valid there at the end, real Nix finds right."""
    root = tmp_path / "host"
    yield root
    if (root / "nix/var/nix/db/db.sqlite").exists():
        RealNix(root).verify()
        assert [name for name in os.listdir(root / "nix/store") if name.endswith(".lock")] == []
    make_writable(tmp_path)


@pytest.fixture
def server(made: Made) -> Iterator[Server]:
    with serving(made.cache) as running:
        yield running


def ask(client: AgentClient, request: SubstituteRequest) -> SubstituteReply:
    client.begin(BEGIN)
    client.missing(MissingRequest(tuple(path.path for path in request.paths)))
    return client.substitute(request)


def lacking(client: AgentClient, made: Made) -> set[str]:
    return set(client.missing(MissingRequest(tuple(path.path for path in made.paths))).missing)


def send(client: AgentClient, source: Path, *paths: PathMessage) -> None:
    with Store.open(str(source)) as store:
        client.import_paths(paths, lambda path: store.nar(StorePath.parse(path)))


pytestmark = pytest.mark.nix


@pytest.mark.parametrize("version", VERSIONS)
def test_a_closure_comes_from_the_cache_and_not_over_the_channel(
    made: Made, host: Path, server: Server, version: str
) -> None:
    python = interpreter(version)
    events: list[dict[str, object]] = []
    with agent(host, python) as client:
        client.begin(BEGIN)
        reply = client.substitute(made.asking(server.url), events.append)
        assert set(reply.fetched) == {path.path for path in made.paths}
        assert (reply.bytes, reply.failed) == (sum(path.nar_size for path in made.paths), {})
        assert lacking(client, made) == set()
        again = client.substitute(made.asking(server.url))
        assert (again.fetched, again.bytes, again.failed) == ((), 0, {})
    assert {made.archive(path) for path in (made.leaf, made.middle, made.top, made.other)} <= set(server.asked)
    assert {event["kind"] for event in events} >= {"plan", "done"}
    assert max(event["done"] for event in events) == reply.bytes  # type: ignore[type-var]
    with Store.open(str(host)) as arrived:
        assert messages(arrived, made.top, made.other) == made.paths


# By name: how the archive of `middle` is answered, and the reason that is told.
ANSWERS = {
    "gone": (wrong.status(404), "is not there, though the cache says that it is"),
    "forbidden": (wrong.status(403), "is not there, though the cache says that it is"),
    "cut": (wrong.cut(40), "cut short after 40"),
    "reset": (wrong.reset(40), ""),
    "other-contents": (wrong.instead(lzma.compress(bytes(17_000))), "FileSize: the file has"),
    "a-page": (wrong.instead(b"<!DOCTYPE html>"), "FileSize: the file has 15 bytes"),
    "endless": (wrong.endless, "FileSize: the file is longer than"),
    "no-answer": (wrong.refuse, ""),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_path_that_cannot_be_had_keeps_back_only_those_that_need_it(
    made: Made, host: Path, server: Server, tmp_path: Path, name: str
) -> None:
    answer, reason = ANSWERS[name]
    server.always(made.archive(made.middle), answer)
    with agent(host) as client:
        reply = ask(client, made.asking(server.url))
        assert set(reply.fetched) == {str(made.leaf), str(made.other)}
        assert set(reply.failed) == {str(made.middle)}
        assert reason in reply.failed[str(made.middle)]
        assert str(made.middle) + " cannot be had" not in reply.failed[str(made.middle)]
        assert lacking(client, made) == {str(made.middle), str(made.top)}
        assert not os.path.lexists(f"{host}{made.middle}"), "no part of it is left"
        # The controller sends the one path; what waited for it is not fetched twice.
        send(client, tmp_path / "source", *(path for path in made.paths if path.path == str(made.middle)))
        asked = len(server.asked)
        last = client.substitute(made.asking(server.url))
        assert (last.fetched, last.failed) == ((str(made.top),), {})
        assert made.archive(made.top) not in server.asked[asked:]
        assert lacking(client, made) == set()


def test_a_cache_that_nobody_answers_for_is_asked_once_and_all_is_left_to_the_controller(
    made: Made, host: Path
) -> None:
    with agent(host) as client:
        reply = ask(client, made.asking("http://127.0.0.1:1"))
        assert reply.fetched == ()
        assert set(reply.failed) == {path.path for path in made.paths}
        assert {"refused" in reason and "127.0.0.1:1" in reason for reason in reply.failed.values()} == {True}


def test_the_next_cache_is_asked_where_one_does_not_answer_or_lacks_a_path(
    made: Made, host: Path, server: Server, tmp_path: Path
) -> None:
    keys = (str(KEY.public),)
    with serving(tmp_path) as empty:
        (tmp_path / "nix-cache-info").write_text("StoreDir: /nix/store\n")
        places = ("http://127.0.0.1:1", empty.url, server.url)
        caches = tuple(CacheMessage(url, keys, order) for order, url in enumerate(places))
        with agent(host) as client:
            assert ask(client, SubstituteRequest(made.paths, caches)).failed == {}
            assert lacking(client, made) == set()
        assert f"/{made.top.hash_part}.narinfo" in empty.asked


def test_signatures_count_that_the_controller_trusts_and_nothing_that_the_host_is_configured_with(
    made: Made, host: Path, server: Server
) -> None:
    (host / "etc/nix").mkdir(parents=True)
    (host / "etc/nix/nix.conf").write_text(f"trusted-public-keys = {KEY.public}\nrequire-sigs = false\n")
    (host / "root").mkdir()
    other = SecretKey("other.test-1", b"o" * 32)
    with agent(host) as client:
        reply = ask(client, made.asking(server.url, str(other.public)))
        # A text has a content address, which nobody needs to sign.
        assert reply.fetched == (str(made.leaf),)
        assert "is signed by cache.test-1, which is not trusted" in reply.failed[str(made.other)]
        assert lacking(client, made) == {path.path for path in made.paths} - {str(made.leaf)}


def test_what_is_signed_but_not_what_the_controller_saw_is_refused(made: Made, host: Path, server: Server) -> None:
    wanted = {path.path: path for path in made.paths}
    other = wanted[str(made.other)]
    for field, changed in {
        "NarHash": replace(other, nar_hash=Hash.sha256(b"").nix),
        "NarSize": replace(other, nar_size=other.nar_size + 8),
        "References": replace(other, references=(str(made.leaf),)),
    }.items():
        request = replace(made.asking(server.url), paths=(wanted[str(made.leaf)], changed))
        with agent(host) as client:
            reply = ask(client, request)
            assert f"{field}: the cache says something else here than to the controller" in reply.failed[other.path]
            assert not os.path.lexists(f"{host}{other.path}")


def test_a_narinfo_that_lies_is_refused_on_the_host(host: Path, tmp_path: Path) -> None:
    cache = tmp_path / "lying"
    (cache / "nar").mkdir(parents=True)
    (cache / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    right = hostile.right()
    (cache / right.url).write_bytes(hostile.FILE)
    wanted = PathMessage(str(hostile.PATH), right.nar_hash.nix, right.nar_size, ())
    with serving(cache) as lying, agent(host) as client:
        client.begin(BEGIN)
        request = SubstituteRequest((wanted,), (CacheMessage(lying.url, (str(hostile.KEY.public),), 1),))
        for name, (text, _) in hostile.NARINFOS.items():
            (cache / f"{hostile.PATH.hash_part}.narinfo").write_bytes(text)
            reply = client.substitute(request)
            assert (reply.fetched, set(reply.failed)) == ((), {wanted.path}), name
            assert not os.path.lexists(f"{host}{wanted.path}"), name
        (cache / f"{hostile.PATH.hash_part}.narinfo").write_bytes(hostile.signed(right).serialise())
        assert client.substitute(request).fetched == (wanted.path,), "what is right is taken"


@pytest.mark.parametrize("url", ["file:///srv/cache", "/srv/cache", "http://user:pass@127.0.0.1/"])
def test_a_directory_of_the_host_or_a_password_is_no_cache(made: Made, host: Path, url: str) -> None:
    with agent(host) as client:
        client.begin(BEGIN)
        with pytest.raises(FormatError, match="hosts are sent to caches at http") as error:
            client.substitute(made.asking(url))
        assert "pass" not in str(error.value).replace("password", "")


def test_the_hosts_own_netrc_is_not_used(
    made: Made, host: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = made.cache.parent / "netrc"
    netrc.write_text("machine 127.0.0.1 login root password hush\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with agent(host) as client:
        assert ask(client, made.asking(server.url)).failed == {}
    assert not any("Authorization" in headers for headers in server.headers)


def test_a_method_that_the_host_cannot_unpack_is_left_to_the_controller(made: Made, host: Path, server: Server) -> None:
    file = made.narinfo(made.other)
    file.write_text(file.read_text().replace("Compression: xz", "Compression: br"))
    with agent(host) as client:
        reply = ask(client, made.asking(server.url))
        assert "Compression: 'br' is not a method that can be used" in reply.failed[str(made.other)]
        assert set(reply.failed) == {str(made.other)}


def test_when_the_controller_hangs_up_the_agent_stops_and_the_next_one_goes_on(
    made: Made, host: Path, server: Server
) -> None:
    server.always(made.archive(made.other), wrong.trickle)
    with agent(host) as client:
        client.begin(BEGIN)

        def hang_up(_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            client.substitute(made.asking(server.url), hang_up)
    server.answers.clear()
    with agent(host) as client:
        assert ask(client, made.asking(server.url)).failed == {}
        assert lacking(client, made) == set()
