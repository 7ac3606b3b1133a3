"""Whole closures out of caches that real Nix wrote, into stores that real Nix verifies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reconciler.core.errors import ReconcilerError, StoreError
from reconciler.core.nix import listing, nar
from reconciler.core.nix.signature import PublicKey
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import substitute as module
from reconciler.core.store.binary_cache import BinaryCache, Caches
from reconciler.core.store.compression import SUFFIXES
from reconciler.core.store.store import Store
from reconciler.core.store.substitute import SubstituteEvent, substitute
from tests.conftest import make_writable
from tests.core.nix.trees import TREE
from tests.core.store import web_server as wrong
from tests.core.store.test_store import add
from tests.core.store.web_server import IMPATIENT, serving
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

CONFIG = "experimental-features = nix-command"


def closure(store: Store) -> list[StorePath]:
    """Texts, sources, a path that refers to itself, and outputs that nothing but a signature vouches for."""
    leaf = store.add_text("leaf", b"a leaf\n")
    tree = store.add_tree("tree", TREE)
    out = add(store, "out-1.0", nar.Directory({"see": nar.Link(str(leaf)), "tree": nar.Link(str(tree))}), (leaf, tree))
    big = add(store, "big-1.0", nar.File(os.urandom(200_000) + bytes(800_000)))
    top = add(store, "top-1.0", nar.Directory({"bin": nar.File(f"{out} {big}".encode(), True)}), (out, big))
    return store.closure([top])


class Made:
    """A store with a closure, whose last path needs all others; and the caches that Nix made of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with Store.open(str(directory / "source"), create=True) as store:
            self.paths = closure(store)
        self.top = self.paths[-1]
        self.nix = RealNix(directory / "source", config=CONFIG)
        names = ("nix-1", str(directory / "secret"), str(directory / "public"))
        self.nix.run("nix-store", "--generate-binary-cache-key", *names)
        self.key = PublicKey.parse((directory / "public").read_text())
        for method in SUFFIXES:
            options = f"compression={method}&secret-key={directory}/secret&write-nar-listing=1"
            self.nix.run("nix", "copy", "--to", f"file://{directory / method}?{options}", str(self.top))

    def cache(self, where: Path | str, priority: int | None = None) -> BinaryCache:
        return BinaryCache(str(where), [self.key], priority, IMPATIENT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("caches")
    request = Made(directory)
    make_writable(directory)
    return request


def contents(store: Store, paths: list[StorePath]) -> list[bytes]:
    return [b"".join(store.nar(path)) for path in paths]


@pytest.mark.parametrize("method", SUFFIXES)
def test_what_nix_wrote_is_substituted_signed_and_verified_by_nix(
    method: str, made: Made, store: Store, nix: RealNix
) -> None:
    events: list[SubstituteEvent] = []
    with serving(made.directory / method) as server:
        cache = made.cache(server.url)
        done = substitute(store, Caches([cache]), [made.top], on_event=events.append)
        cache.close()
    assert sorted(done.fetched) == sorted(made.paths)
    assert store.closure([made.top]) == made.paths
    with Store.open(str(made.directory / "source")) as source:
        assert contents(store, made.paths) == contents(source, made.paths)
        assert [info.references for info in store.infos(made.paths)] == [i.references for i in source.infos(made.paths)]
        total = sum(info.nar_size for info in source.infos(made.paths))
    assert {len(info.signatures) for info in store.infos(made.paths)} == {1}
    assert (done.nar_size, events[0].kind, events[0].total) == (total, "plan", total)
    assert max(event.done for event in events) == total
    assert sorted(event.path for event in events if event.kind == "done") == sorted(map(str, made.paths))
    nix.verify()
    key = RealNix(nix.root, config=f"{CONFIG}\ntrusted-public-keys = {made.key}")
    key.run("nix", "store", "verify", "--recursive", "--sigs-needed", "1", str(made.top))


def test_the_listings_that_nix_wrote_are_those_that_we_would_write(made: Made) -> None:
    cache = made.cache(made.directory / "xz")
    with Store.open(str(made.directory / "source")) as source:
        for path in made.paths:
            assert cache.listing(path) == listing.listing(nar.ChunkReader(source.nar(path)))
    assert cache.listing(StorePath("0" * 32, "none")) is None


def test_what_is_there_is_not_fetched_and_a_second_time_nothing_is(made: Made, store: Store) -> None:
    caches = Caches([made.cache(made.directory / "zstd")])
    first = substitute(store, caches, [made.paths[0]])
    assert first.fetched == (made.paths[0],)
    assert len(substitute(store, caches, [made.top, made.paths[0]]).fetched) == len(made.paths) - 1
    assert substitute(store, caches, [made.top]).fetched == ()
    assert substitute(store, Caches(), [made.top]).fetched == ()


def test_a_closure_that_is_not_whole_is_refused_before_a_byte_is_fetched(
    made: Made, store: Store, tmp_path: Path
) -> None:
    hidden = made.paths[0]
    with serving(made.directory / "xz") as server:
        server.always(f"/{hidden.hash_part}.narinfo", wrong.status(404))
        cache = made.cache(server.url)
        with pytest.raises(StoreError, match=f"{hidden}: it is not in the store, and no cache has it"):
            substitute(store, Caches([cache]), [made.top])
        assert not any(path.startswith("/nar/") for path in server.asked)
        assert set(os.listdir(store.store_dir)) <= {".links"}
        # Another cache may have the rest.
        assert substitute(store, Caches([cache, made.cache(made.directory / "gzip")]), [made.top]).fetched
        cache.close()


def test_after_an_error_what_is_whole_is_valid_and_the_next_run_fetches_the_rest(
    made: Made, store: Store, nix: RealNix
) -> None:
    with serving(made.directory / "xz") as server:
        cache = made.cache(server.url)
        narinfo = cache.narinfo(made.top)
        assert narinfo is not None
        server.always(f"/{narinfo.url}", wrong.cut(50))
        with pytest.raises(StoreError, match=f"{made.top} cannot be had: .*cut short after 50"):
            substitute(store, Caches([cache]), [made.top])
        assert store.valid(made.paths) == set(made.paths[:-1])
        assert [name for name in os.listdir(store.store_dir) if name.endswith(".lock")] == []
        nix.verify()
        server.answers.clear()
        assert substitute(store, Caches([cache]), [made.top]).fetched == (made.top,)
        cache.close()
    nix.verify()


def test_files_that_a_killed_run_left_are_taken_over_or_replaced(made: Made, store: Store, nix: RealNix) -> None:
    whole, broken = made.paths[0], made.paths[1]
    with Store.open(str(made.directory / "source")) as source, store.directory() as store_fd:
        for path in (whole, broken):
            nar.restore(nar.ChunkReader(source.nar(path)), store_fd, path.base_name)
    real = Path(store.real(broken))
    for file in [real, *real.rglob("*")] if real.is_dir() else [real]:
        if file.is_file() and not file.is_symlink():
            file.chmod(0o644)
            file.write_bytes(b"broken")
            break
    with serving(made.directory / "xz") as server:
        cache = made.cache(server.url)
        substitute(store, Caches([cache]), [made.top])
        narinfo = cache.narinfo(whole)
        assert narinfo is not None
        assert f"/{narinfo.url}" not in server.asked
        cache.close()
    nix.verify()


def test_two_runs_at_once_fetch_a_closure_together(made: Made, store: Store, nix: RealNix) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with Store.open(str(nix.root)) as other:
                substitute(other, Caches([made.cache(made.directory / "bzip2")]), [made.top])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.valid(made.paths) == set(made.paths)
    nix.verify()


def test_a_path_that_refers_to_what_the_plan_did_not_know_is_not_taken(made: Made, store: Store) -> None:
    """Two caches may have one path with other references: what the first one said was planned for."""
    info = module.plan(store, Caches([made.cache(made.directory / "xz")]), [made.top])
    fewer = {path: each for path, each in info.items() if path == made.top}
    run = module._Run(store, Caches([made.cache(made.directory / "xz")]), fewer, lambda _: None)
    with pytest.raises(ReconcilerError, match=r"References: .* is not among those of the other cache"):
        run.fetch([made.top], 1)
    assert not store.is_valid(made.top)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from reconciler.core.nix.signature import PublicKey
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.binary_cache import BinaryCache, Caches
from reconciler.core.store.store import Store
from reconciler.core.store.substitute import substitute
_, _, root, cache, key, *paths = sys.argv
with Store.open(root, create=True) as store:
    caches = Caches([BinaryCache(cache, [PublicKey.parse(key)])])
    substitute(store, caches, map(StorePath.parse, paths))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])
"""


def peak(root: Path, cache: Path, key: PublicKey, *paths: StorePath) -> int:
    """MiB of memory that a process takes to substitute `paths`."""
    source = str(Path(__file__).parents[3])
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, source, str(root), str(cache), str(key), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) >> 10


def test_memory_does_not_grow_with_the_archive(store: Store, tmp_path: Path) -> None:
    from reconciler.packages.cache import push
    from tests.core.store.hostile_cache import KEY

    small = add(store, "small", nar.File(bytes(1 << 20)))
    big = add(store, "big", nar.File(bytes(40 << 20)))
    push(store, [small, big], str(tmp_path / "cache"), KEY, compression="zstd")
    least = peak(tmp_path / "a", tmp_path / "cache", KEY.public, small)
    assert peak(tmp_path / "b", tmp_path / "cache", KEY.public, big) < least + 20
    make_writable(tmp_path)


def test_a_killed_run_leaves_nothing_valid_without_its_closure(made: Made, store_root: Path, nix: RealNix) -> None:
    """Killed while the server still sends: at whatever step that is, references are valid before referrers."""
    with Store.open(str(store_root), create=True):
        pass
    with serving(made.directory / "none") as server:

        def slowly(handler: wrong.Handler, data: bytes) -> None:
            handler.head(200, len(data))
            for start in range(0, len(data), 1 + len(data) // 8):
                handler.wfile.write(data[start : start + 1 + len(data) // 8])
                handler.wfile.flush()
                time.sleep(0.02)

        source = str(Path(__file__).parents[3])
        arguments = [source, str(store_root), server.url, str(made.key), str(made.top)]
        for seconds in (0.3, 0.4, 0.5):
            server.always("*", slowly)
            child = subprocess.Popen([sys.executable, "-I", "-S", "-c", SCRIPT, *arguments], stderr=subprocess.DEVNULL)
            time.sleep(seconds)
            child.kill()
            child.wait()
            with Store.open(str(store_root)) as store:
                valid = store.valid(made.paths)
                assert set(store.closure(valid)) == valid
            nix.verify()
    with Store.open(str(store_root)) as store:
        substitute(store, Caches([made.cache(made.directory / "xz")]), [made.top])
    nix.verify()
