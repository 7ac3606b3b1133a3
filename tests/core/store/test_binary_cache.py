"""Caches as they are read: right ones, and every way to be wrong that golden/hostile/cache holds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError, ReconcilerError, StoreError, UsageError
from reconciler.core.nix import nar
from reconciler.core.nix.narinfo import NarInfo
from reconciler.core.nix.signature import PublicKey
from reconciler.core.store import content_address
from reconciler.core.store.binary_cache import BinaryCache, Caches
from reconciler.core.store.store import Store
from reconciler.core.store.substitute import substitute
from reconciler.core.store.web import Patience
from reconciler.core.values import replace
from tests.core.store import hostile_cache as hostile
from tests.core.store.hostile_cache import ARCHIVE, ARCHIVES, CACHE_INFOS, GOLDEN, KEY, NARINFOS, PATH
from tests.core.store.web_server import IMPATIENT, serving


def write(directory: Path, narinfo: bytes, file: bytes = hostile.FILE, url: str | None = None) -> Path:
    """A cache that has PATH."""
    (directory / "nar").mkdir(parents=True, exist_ok=True)
    (directory / "nix-cache-info").write_bytes(b"StoreDir: /nix/store\n")
    (directory / f"{PATH.hash_part}.narinfo").write_bytes(narinfo)
    (directory / (url or hostile.right(file).url)).write_bytes(file)
    return directory


def signed(narinfo: NarInfo) -> bytes:
    return hostile.signed(narinfo).serialise()


def opened(
    where: Path | str, *keys: PublicKey, priority: int | None = None, patience: Patience = IMPATIENT
) -> BinaryCache:
    return BinaryCache(str(where), keys or (KEY.public,), priority, patience)


def read(cache: BinaryCache) -> bytes:
    """The archive of PATH."""
    narinfo = cache.narinfo(PATH)
    assert narinfo is not None

    def whole(archive: nar.Reader) -> bytes:
        parts = []
        while data := archive.read(1000):
            parts.append(data)
        return b"".join(parts)

    return cache.read_nar(narinfo, whole)


# --- right ones -------------------------------------------------------------------------------------------------------


def test_a_signed_path_is_read_from_a_directory_and_from_a_server(tmp_path: Path) -> None:
    write(tmp_path, (GOLDEN / "right.narinfo").read_bytes())
    with serving(tmp_path) as server:
        for where in (str(tmp_path), f"file://{tmp_path}", f"file://localhost{tmp_path}", server.url, f"{server.url}/"):
            cache = opened(where)
            assert read(cache) == ARCHIVE
            assert cache.info().store_dir == "/nix/store"
            assert (cache.priority, str(cache)) == (
                50,
                where.rstrip("/") if "://127" in where else f"file://{tmp_path}",
            )
            cache.close()


def test_the_files_are_what_the_module_that_made_them_would_make_today() -> None:
    kept = {path.name: path.read_bytes() for path in GOLDEN.iterdir()}
    made = {f"{name}.narinfo": data for name, (data, _) in NARINFOS.items()}
    made |= {f"{name}.cache-info": data for name, (data, _) in CACHE_INFOS.items()}
    made |= {f"archive-{name}": data for name, data in hostile.FILES.items()}
    assert kept == {**made, "right.narinfo": signed(hostile.right()), "right.nar.xz": hostile.FILE}


def test_a_path_that_follows_from_its_contents_needs_no_signature(tmp_path: Path, store: Store) -> None:
    import hashlib

    text = store.add_text("a-text", b"text", [store.add_text("dep", b"dep")])
    tree = store.add_tree("tree", nar.Directory({"l": nar.Link(str(text))}), [text])
    file = tmp_path / "flat"
    file.write_bytes(b"flat")
    for name in ("sha1", "sha256"):
        from reconciler.core.nix.hashes import Hash

        store.add_fixed("flat", str(file), Hash(name, hashlib.new(name, b"flat").digest()))
    for info in store.infos(sorted(store.closure([tree]))):
        said = replace(
            hostile.right(), path=info.path, nar_hash=info.nar_hash, nar_size=info.nar_size,
            references=info.references, ca=info.ca,
        )  # fmt: skip
        write(tmp_path, said.serialise())
        (tmp_path / f"{info.path.hash_part}.narinfo").write_bytes(said.serialise())
        found = opened(tmp_path).narinfo(info.path)
        assert found is not None
        assert (found.ca, found.references) == (info.ca, info.references)
        false = replace(said, ca=content_address.recursive(info.nar_hash), references=())
        (tmp_path / f"{info.path.hash_part}.narinfo").write_bytes(false.serialise())
        with pytest.raises(StoreError, match="CA: what has this content address lies at"):
            opened(tmp_path).narinfo(info.path)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    write(tmp_path, signed(hostile.right()))
    assert opened(tmp_path).narinfo(hostile.OTHER) is None
    assert Caches([opened(tmp_path)]).find(hostile.OTHER) is None


def test_any_one_of_several_signatures_and_of_several_keys_is_enough(tmp_path: Path) -> None:
    narinfo = hostile.right()
    signatures = tuple(key.sign(narinfo.fingerprint) for key in (hostile.UNKNOWN, hostile.IMPOSTOR, KEY))
    write(tmp_path, replace(narinfo, signatures=signatures).serialise())
    assert read(opened(tmp_path)) == ARCHIVE
    assert read(opened(tmp_path, PublicKey("other", bytes(32)), KEY.public)) == ARCHIVE
    assert read(opened(tmp_path, hostile.UNKNOWN.public)) == ARCHIVE


def test_file_hash_and_size_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path, signed(replace(hostile.right(), file_hash=None, file_size=None)))
    assert read(opened(tmp_path)) == ARCHIVE


# --- wrong ones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NARINFOS)
def test_a_narinfo_that_is_wrong_is_refused_by_its_field(name: str, tmp_path: Path, store: Store) -> None:
    write(tmp_path, (GOLDEN / f"{name}.narinfo").read_bytes())
    with pytest.raises((StoreError, FormatError), match=NARINFOS[name][1]) as caught:
        opened(tmp_path).narinfo(PATH)
    assert f"{PATH.hash_part}.narinfo" in caught.value.message
    nothing_is_taken(tmp_path, store)


def nothing_is_taken(directory: Path, store: Store) -> None:
    with pytest.raises(ReconcilerError):
        substitute(store, Caches([opened(directory)]), [PATH])
    assert not store.is_valid(PATH)
    assert set(os.listdir(store.store_dir)) <= {".links"}


@pytest.mark.parametrize("name", CACHE_INFOS)
def test_a_cache_that_says_something_wrong_of_itself_is_refused(name: str, tmp_path: Path, store: Store) -> None:
    write(tmp_path, signed(hostile.right()))
    (tmp_path / "nix-cache-info").write_bytes((GOLDEN / f"{name}.cache-info").read_bytes())
    with pytest.raises(FormatError, match=f"nix-cache-info: .*{CACHE_INFOS[name][1]}"):
        opened(tmp_path).narinfo(PATH)
    nothing_is_taken(tmp_path, store)


def test_a_directory_that_is_no_cache_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="it is no binary cache: there is no nix-cache-info"):
        opened(tmp_path).narinfo(PATH)


def test_a_narinfo_that_does_not_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    write(tmp_path, b"References: " + b"x" * (5 << 20))
    with pytest.raises(FormatError, match="more than the 4194304 bytes that such a file may have"):
        opened(tmp_path).narinfo(PATH)


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_is_wrong_is_refused_by_its_field_and_leaves_nothing(
    name: str, tmp_path: Path, store: Store
) -> None:
    file, narinfo, said = ARCHIVES[name]
    write(tmp_path, signed(narinfo), file, narinfo.url)
    began = time.monotonic()
    with pytest.raises((StoreError, FormatError), match=said):
        substitute(store, Caches([opened(tmp_path)]), [PATH])
    assert time.monotonic() - began < 5  # a gigabyte of zeros is not unpacked
    assert not store.is_valid(PATH)
    assert set(os.listdir(store.store_dir)) <= {".links"}


def test_an_archive_that_is_not_there_is_named(tmp_path: Path, store: Store) -> None:
    write(tmp_path, signed(hostile.right()))
    (tmp_path / hostile.right().url).unlink()
    with pytest.raises(StoreError, match=rf"{hostile.right().url}: the archive of {PATH} is not there"):
        substitute(store, Caches([opened(tmp_path)]), [PATH])


def test_a_fifo_holds_nobody_up(tmp_path: Path) -> None:
    write(tmp_path, b"")
    (tmp_path / f"{PATH.hash_part}.narinfo").unlink()
    os.mkfifo(tmp_path / f"{PATH.hash_part}.narinfo")
    with pytest.raises(StoreError, match="it is no file"):
        opened(tmp_path).narinfo(PATH)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket", "'s3' is no place for a cache"),
        ("cache.example.org", "is no place for a cache"),
        ("file://host/x", "'file://host/x' is no directory"),
        ("file:x", "'file:x' is no directory"),
        ("http://", "is no http or https URL"),
        ("https://a b/", "is no http or https URL"),
        ("https://host:99999/", "a URL that cannot be read"),
        ("https://host/?priority=1", "the URL of a cache has no parameters"),
    ],
)
def test_what_is_no_place_for_a_cache_is_refused(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BinaryCache(url)


# --- several ----------------------------------------------------------------------------------------------------------


def test_caches_are_asked_by_priority_and_then_in_the_order_given(tmp_path: Path) -> None:
    said = {"a": "", "b": "Priority: 40\n", "c": "Priority: 40\n", "d": "Priority: 30\n"}
    for name, line in said.items():
        write(tmp_path / name, signed(hostile.right()))
        (tmp_path / name / "nix-cache-info").write_text(f"StoreDir: /nix/store\n{line}")
    caches = [opened(tmp_path / name) for name in said] + [opened(tmp_path / "a", priority=1)]
    order = [str(offer.cache).rpartition("/")[2] for offer in Caches(caches).offers(PATH)]
    assert order == ["a", "d", "b", "c", "a"]


def test_the_next_cache_is_taken_when_one_lies_or_is_gone(tmp_path: Path, store: Store) -> None:
    file, narinfo, _ = ARCHIVES["other-contents"]
    write(tmp_path / "lies", signed(narinfo), file, narinfo.url)
    write(tmp_path / "unsigned", hostile.right().serialise())
    write(tmp_path / "right", signed(hostile.right()))
    heard: list[ReconcilerError] = []
    places = ("lies", "unsigned", "gone", "right")
    caches = Caches([opened(tmp_path / name) for name in places], heard.append)
    assert substitute(store, caches, [PATH]).fetched == (PATH,)
    assert b"".join(store.nar(PATH)) == ARCHIVE
    assert store.info(PATH).signatures == (KEY.sign(hostile.right().fingerprint),)
    assert [error.message.rpartition("/")[2][:9] for error in heard if "NarHash" in error.message]
    assert any("it is no binary cache" in error.message for error in heard)


def test_all_reasons_are_told_when_no_cache_will_do(tmp_path: Path, store: Store) -> None:
    write(tmp_path / "one", hostile.right().serialise())
    write(tmp_path / "two", signed(replace(hostile.right(), url="nar/none.nar")))
    with pytest.raises(StoreError) as caught:
        substitute(store, Caches([opened(tmp_path / "one"), opened(tmp_path / "two")]), [PATH])
    first, *rest = caught.value.message.splitlines()
    assert first == f"{PATH} cannot be had from any cache:"
    assert [("is not signed" in line, "is not there" in line) for line in rest] == [(True, False), (False, True)]


def test_what_a_cache_said_is_not_asked_again(tmp_path: Path) -> None:
    write(tmp_path, signed(hostile.right()))
    with serving(tmp_path) as server:
        caches = Caches([opened(server.url)])
        for _ in range(3):
            assert caches.find(hostile.OTHER) is None
            assert caches.find(PATH) is not None
        caches.close()
        assert sorted(server.asked) == sorted(
            ["/nix-cache-info", f"/{PATH.hash_part}.narinfo", f"/{hostile.OTHER.hash_part}.narinfo"]
        )
