"""Caches that we fill: what is in them, what is left alone, and what a push that is killed leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import nar, narinfo
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.narinfo import NarInfo
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.binary_cache import BinaryCache, Caches
from reconciler.core.store.compression import SUFFIXES
from reconciler.core.store.store import Store
from reconciler.core.store.substitute import substitute
from reconciler.core.values import replace
from reconciler.packages import cache as module
from reconciler.packages.cache import PushEvent, push
from reconciler.packages.keys import SecretKey, generate
from tests.core.store.test_store import add
from tests.core.store.test_substitute import closure

KEY = SecretKey.parse(generate("ours-1")[0])
OTHER = SecretKey.parse(generate("other-1")[0])


@pytest.fixture
def paths(store: Store) -> list[StorePath]:
    """A closure; the last of them needs all others."""
    return closure(store)


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def narinfos(directory: Path) -> dict[StorePath, NarInfo]:
    found = [narinfo.parse(file.read_bytes(), file.name, file.stem) for file in directory.glob("*.narinfo")]
    return {each.path: each for each in found}


def check(directory: Path) -> set[StorePath]:
    """What the cache has; every path that it has is there with its archive and its references."""
    found = narinfos(directory)
    for each in found.values():
        data = (directory / each.url).read_bytes()
        assert (Hash.sha256(data), len(data)) == (each.file_hash, each.file_size)
        assert set(each.references) <= found.keys() | {each.path}
    return set(found)


@pytest.mark.parametrize("method", SUFFIXES)
def test_a_pushed_closure_is_substituted_with_our_key(
    method: str, store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    directory = tmp_path / "cache"
    events: list[PushEvent] = []
    done = push(store, [paths[-1]], str(directory), KEY, compression=method, heard=events.append)
    assert [entry.path for entry in done.pushed] == paths
    assert [event.path for event in events if event.path] == paths
    assert events[-1].total == sum(info.nar_size for info in store.infos(paths))
    assert check(directory) == set(paths)
    assert {each.compression for each in narinfos(directory).values()} == {method}
    with Store.open(str(tmp_path / "there"), create=True) as there:
        substitute(there, Caches([BinaryCache(str(directory), [KEY.public])]), [paths[-1]])
        for path in paths:
            assert b"".join(there.nar(path)) == b"".join(store.nar(path))
            assert there.info(path).references == store.info(path).references
            assert there.info(path).ca == store.info(path).ca
    with pytest.raises(StoreError, match=r"Sig: .* is signed by ours-1, which is not trusted"):
        BinaryCache(str(directory), [OTHER.public]).narinfo(paths[-1])


def test_a_second_push_writes_nothing(store: Store, paths: list[StorePath], tmp_path: Path) -> None:
    push(store, paths[:1], str(tmp_path), KEY)
    push(store, paths, str(tmp_path), KEY, compression="zstd")
    before = {name: os.stat(tmp_path / name).st_mtime_ns for name in files(tmp_path)}
    done = push(store, paths, str(tmp_path), KEY, compression="gzip")
    assert (len(done.pushed), len(done.skipped)) == (0, len(paths))
    assert {name: os.stat(tmp_path / name).st_mtime_ns for name in files(tmp_path)} == before
    assert not any(entry.signed for entry in done.skipped)


def test_files_can_be_read_by_any_web_server(store: Store, paths: list[StorePath], tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        push(store, paths, str(tmp_path / "a/b"), KEY)
    finally:
        os.umask(before)
    assert {os.stat(tmp_path / "a/b" / name).st_mode & 0o777 for name in files(tmp_path / "a/b")} == {0o644}
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in ("a", "a/b", "a/b/nar")} == {0o755}


def test_our_signature_is_added_beside_others_and_only_to_what_we_have(
    store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    push(store, paths, str(tmp_path), None)
    assert all(each.signatures == () for each in narinfos(tmp_path).values())
    archives = sorted(name for name in files(tmp_path) if name.startswith("nar/"))
    for key in (OTHER, KEY):
        done = push(store, paths, str(tmp_path), key)
        assert [entry.signed for entry in done.skipped] == [True] * len(paths)
    for each in narinfos(tmp_path).values():
        assert each.signatures == tuple(key.sign(each.fingerprint) for key in (OTHER, KEY))
    assert sorted(name for name in files(tmp_path) if name.startswith("nar/")) == archives
    # What the cache has of a path may have been made elsewhere: it is neither replaced nor vouched for.
    top = narinfos(tmp_path)[paths[-1]]
    foreign = replace(top, nar_hash=Hash.sha256(b"another build"), signatures=())
    (tmp_path / f"{top.path.hash_part}.narinfo").write_bytes(foreign.serialise())
    with pytest.raises(StoreError, match="with other contents, not signed by 'ours-1'") as caught:
        push(store, paths, str(tmp_path), KEY)
    assert caught.value.hint == "remove that file, and push again, to replace them"
    assert narinfos(tmp_path)[paths[-1]] == foreign
    assert push(store, paths, str(tmp_path), None).pushed == ()


def test_signatures_that_the_store_has_go_along(store: Store, tmp_path: Path) -> None:
    path = add(store, "x-1.0", nar.File(b"x"))
    push(store, [path], str(tmp_path / "one"), OTHER)
    with Store.open(str(tmp_path / "there"), create=True) as there:
        substitute(there, Caches([BinaryCache(str(tmp_path / "one"), [OTHER.public])]), [path])
        push(there, [path], str(tmp_path / "two"), KEY)
    (found,) = narinfos(tmp_path / "two").values()
    assert found.signatures == (OTHER.sign(found.fingerprint), KEY.sign(found.fingerprint))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda directory, said: (directory / said.url).unlink(),
        lambda directory, said: (directory / said.url).write_bytes(b"short"),
        lambda directory, said: (directory / f"{said.path.hash_part}.narinfo").write_bytes(b""),
        lambda directory, said: (directory / f"{said.path.hash_part}.narinfo").write_bytes(b"<html>"),
    ],
    ids=["archive gone", "archive cut", "narinfo empty", "narinfo of another kind"],
)
def test_what_is_not_whole_in_the_cache_is_pushed_again(
    spoil: Callable[[Path, NarInfo], object], store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    push(store, paths, str(tmp_path), KEY)
    before = files(tmp_path)
    spoil(tmp_path, narinfos(tmp_path)[paths[1]])
    done = push(store, paths, str(tmp_path), KEY)
    assert [entry.path for entry in done.pushed] == [paths[1]]
    assert files(tmp_path) == before


def test_a_path_that_has_rotted_is_not_pushed(store: Store, paths: list[StorePath], tmp_path: Path) -> None:
    bad = next(path for path in paths if path.name == "leaf")
    real = Path(store.real(bad))
    real.chmod(0o644)
    real.write_bytes(b"rotten\n")
    with pytest.raises(StoreError, match=f"{bad}: it is damaged"):
        push(store, [paths[-1]], str(tmp_path), KEY)
    assert bad not in check(tmp_path)
    real.write_bytes(b"a leaf\n")
    real.chmod(0o444)


def test_what_is_not_valid_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="00000-none is not valid in"):
        push(store, [StorePath("0" * 32, "none")], str(tmp_path / "cache"), KEY)
    assert not (tmp_path / "cache").exists()


def test_a_cache_of_another_store_and_a_place_that_cannot_be_written_are_refused(
    store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    (tmp_path / "nix-cache-info").write_text("StoreDir: /gnu/store\n")
    with pytest.raises(FormatError, match=f"{tmp_path}/nix-cache-info: StoreDir: the cache is of '/gnu/store'"):
        push(store, paths, str(tmp_path), KEY)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=f"the cache {tmp_path}/file/x: Not a directory"):
        push(store, paths, str(tmp_path / "file/x"), KEY)
    with pytest.raises(StoreError, match="Compression: 'lz4' is not a method"):
        push(store, paths, str(tmp_path / "other"), KEY, compression="lz4")


def test_what_a_cache_says_of_itself_is_left_as_it_is(store: Store, paths: list[StorePath], tmp_path: Path) -> None:
    said = b"StoreDir: /nix/store\nPriority: 10\n"
    (tmp_path / "nix-cache-info").write_bytes(said)
    push(store, paths, str(tmp_path), KEY)
    assert (tmp_path / "nix-cache-info").read_bytes() == said
    push(store, paths, str(tmp_path / "new"), KEY)
    assert (tmp_path / "new/nix-cache-info").read_bytes() == b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"


def test_names_that_are_no_text_have_no_listing(store: Store, tmp_path: Path) -> None:
    odd = store.add_tree("odd", nar.Directory({"\udcff": nar.File(b"x")}))
    push(store, [odd], str(tmp_path), KEY)
    assert check(tmp_path) == {odd}
    assert not (tmp_path / f"{odd.hash_part}.ls").exists()


# --- killed, and two at once ------------------------------------------------------------------------------------------


def killed(store_root: Path, directory: Path, top: StorePath, step: int) -> bool:
    """Push in a child that is killed at its `step`th change of the directory; whether it was."""
    child = os.fork()
    if child == 0:
        calls = 0

        def deadly(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        try:
            with Store.open(str(store_root)) as store:
                store.infos(store.closure([top]))
                for name in ("rename", "fsync", "fchmod", "unlink", "mkdir"):
                    setattr(os, name, deadly(getattr(os, name)))
                fs.write_all = deadly(fs.write_all)  # type: ignore[assignment]
                push(store, [top], str(directory), KEY, compression="gzip", jobs=1)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_a_push_killed_at_any_step_leaves_a_right_cache_and_the_next_one_completes_it(
    store: Store, store_root: Path, tmp_path: Path
) -> None:
    dep = store.add_text("dep", b"dep")
    top = add(store, "top-1.0", nar.File(str(dep).encode()), (dep,))
    whole = tmp_path / "whole"
    push(store, [top], str(whole), KEY, compression="gzip")
    store.close()
    step = 0
    while True:
        step += 1
        directory = tmp_path / f"cache-{step}"
        if not killed(store_root, directory, top, step):
            break
        check(directory)
        if step % 4 == 0:
            push(store, [top], str(directory), KEY, compression="gzip")
            assert files(directory) == files(whole)
            store.close()
    assert step > 40
    assert files(directory) == files(whole)


def test_a_check_that_a_narinfo_has_its_archive_can_fail(store: Store, paths: list[StorePath], tmp_path: Path) -> None:
    push(store, paths, str(tmp_path), KEY)
    (tmp_path / narinfos(tmp_path)[paths[0]].url).unlink()
    with pytest.raises(FileNotFoundError):
        check(tmp_path)
    push(store, paths, str(tmp_path), KEY)
    (tmp_path / f"{paths[0].hash_part}.narinfo").unlink()
    with pytest.raises(AssertionError):
        check(tmp_path)


def test_two_pushes_into_one_cache_do_not_disturb_each_other(
    store_root: Path, store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    errors: list[BaseException] = []

    def run(key: SecretKey) -> None:
        try:
            with Store.open(str(store_root)) as own:
                push(own, [paths[-1]], str(tmp_path), key)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(key,)) for key in (KEY, OTHER, KEY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert check(tmp_path) == set(paths)
    assert [name for name in files(tmp_path) if ".push-" in name] == []


def test_temporary_files_of_others_that_still_run_are_left_alone(
    store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    (tmp_path / "nar").mkdir()
    mine, dead = tmp_path / "nar/.push-1-a", tmp_path / ".push-2-b"
    for file in (mine, dead):
        file.write_bytes(b"x")
    with mine.open() as held:
        fs.flock(held.fileno(), exclusive=True)
        push(store, paths, str(tmp_path), KEY)
        assert (mine.exists(), dead.exists()) == (True, False)
    push(store, paths, str(tmp_path), KEY)
    assert not mine.exists()


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.packages.cache import push
with Store.open(sys.argv[2]) as store:
    push(store, [StorePath.parse(sys.argv[4])], sys.argv[3], None, compression="zstd", jobs=1)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])
"""


def test_memory_does_not_grow_with_the_archive(store: Store, store_root: Path, tmp_path: Path) -> None:
    def peak(path: StorePath) -> int:
        source = str(Path(module.__file__).parents[2])
        command = [sys.executable, "-c", SCRIPT, source, str(store_root), str(tmp_path / "cache"), str(path)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) >> 10

    least = peak(add(store, "small", nar.File(bytes(1 << 20))))
    assert peak(add(store, "big", nar.File(bytes(40 << 20)))) < least + 20
