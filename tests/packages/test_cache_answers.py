"""What caches said in earlier runs: it spares questions and decides nothing, whatever becomes of its file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.core.nix.narinfo import NarInfo
from reconciler.core.store.binary_cache import BinaryCache, Caches
from reconciler.core.store.store import Store
from reconciler.core.store.substitute import substitute
from reconciler.core.values import replace
from reconciler.packages import cache_answers
from reconciler.packages.cache_answers import NEGATIVE_SECONDS, POSITIVE_SECONDS, CacheAnswers
from reconciler.packages.keys import SecretKey, generate
from tests.conftest import make_writable
from tests.core.store import hostile_cache as hostile
from tests.core.store.hostile_cache import KEY, PATH
from tests.core.store.test_binary_cache import signed, write
from tests.core.store.web_server import IMPATIENT, Server, serving

INFO, NARINFO = "/nix-cache-info", f"/{PATH.hash_part}.narinfo"
FILE = "narinfos-1.sqlite"


@pytest.fixture
def having(tmp_path: Path) -> Iterator[Server]:
    """A cache that has PATH."""
    with serving(write(tmp_path / "having", signed(hostile.right()))) as server:
        yield server


@pytest.fixture
def lacking(tmp_path: Path) -> Iterator[Server]:
    """One that has nothing, and is asked first."""
    directory = tmp_path / "lacking"
    directory.mkdir()
    (directory / "nix-cache-info").write_text("StoreDir: /nix/store\nPriority: 10\n")
    with serving(directory) as server:
        yield server


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where the answers are kept."""
    return tmp_path / "cache"


def run(kept: Path, *servers: Server, key: SecretKey = KEY) -> NarInfo | None:
    """What one run finds out about PATH."""
    for server in servers:
        server.asked.clear()
    memory = CacheAnswers(kept)
    caches = Caches([BinaryCache(each.url, (key.public,), patience=IMPATIENT, memory=memory) for each in servers])
    try:
        found = caches.find(PATH)
        return None if found is None else found.narinfo
    finally:
        caches.close()
        memory.close()


def change(kept: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(kept / FILE) as connection:
        connection.execute(statement, values)
    connection.close()


def rows(kept: Path) -> list[tuple[str, bool]]:
    """The caches' URLs, and whether they had the path."""
    connection = sqlite3.connect(kept / FILE)
    found = connection.execute("select cache, narinfo is not null from answers order by asked").fetchall()
    connection.close()
    return [(cache, bool(had)) for cache, had in found]


# --- what it spares ---------------------------------------------------------------------------------------------------


def test_what_caches_said_is_not_asked_in_the_next_run(having: Server, lacking: Server, kept: Path) -> None:
    first = run(kept, having, lacking)
    assert first is not None
    assert (lacking.asked, having.asked) == ([INFO, NARINFO], [INFO, NARINFO])
    assert run(kept, having, lacking) == first
    assert (lacking.asked, having.asked) == ([INFO], [INFO])
    assert rows(kept) == [(lacking.url, False), (having.url, True)]
    assert os.stat(kept / FILE).st_mode & 0o777 == 0o600


def test_what_no_cache_had_is_asked_for_again(lacking: Server, kept: Path) -> None:
    assert run(kept, lacking) is None
    assert run(kept, lacking) is None
    assert lacking.asked == [INFO, NARINFO]
    write(lacking.directory, signed(hostile.right()))
    assert run(kept, lacking) is not None
    assert run(kept, lacking) is not None
    assert lacking.asked == [INFO]


def test_an_answer_counts_for_as_long_as_with_nix(
    having: Server, lacking: Server, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    assert run(kept, having, lacking)
    for seconds, asked in (
        (NEGATIVE_SECONDS - 60, ([INFO], [INFO])),
        (NEGATIVE_SECONDS + 60, ([INFO, NARINFO], [INFO])),
        (POSITIVE_SECONDS + 60, ([INFO, NARINFO], [INFO, NARINFO])),
        (-60, ([INFO, NARINFO], [INFO, NARINFO])),  # the clock was wrong then, or is now
    ):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        assert run(kept, having, lacking)
        assert (lacking.asked, having.asked) == asked, seconds


def test_a_directory_is_asked_itself_and_a_password_is_not_kept(having: Server, kept: Path) -> None:
    memory = CacheAnswers(kept)
    url = having.url.replace("://", "://alice:sesame@")
    for place in (f"file://{having.directory}", url):
        cache = BinaryCache(place, (KEY.public,), memory=memory)
        assert cache.narinfo(PATH)
        cache.close()
    memory.close()
    assert rows(kept) == [(having.url, True)]
    assert b"sesame" not in (kept / FILE).read_bytes()


# --- what it must not do ----------------------------------------------------------------------------------------------


def bigger(narinfo: NarInfo) -> bytes:
    """It says another size than the one that was signed."""
    return replace(narinfo, nar_size=narinfo.nar_size + 1).serialise()


def elsewhere(narinfo: NarInfo) -> bytes:
    """It is right, and of another path than the one that it stands for."""
    return hostile.signed(replace(narinfo, path=hostile.OTHER, ca="")).serialise()


@pytest.mark.parametrize("lie", [bigger, elsewhere, lambda _: b"StorePath: nonsense", lambda _: b""])
def test_what_is_remembered_is_believed_no_more_than_what_comes(
    lie: Callable[[NarInfo], bytes], having: Server, kept: Path
) -> None:
    right = run(kept, having)
    assert right is not None
    change(kept, "update answers set narinfo = ?", lie(right))
    assert run(kept, having) == right
    assert having.asked == [INFO, NARINFO]
    assert run(kept, having) == right
    assert having.asked == [INFO], "the lie was replaced"


def test_a_key_that_is_trusted_no_more_has_the_cache_asked_again(having: Server, kept: Path) -> None:
    assert run(kept, having)
    other = SecretKey.parse(generate("other-1")[0])
    narinfo = hostile.right()
    again = replace(narinfo, signatures=(other.sign(narinfo.fingerprint),))
    write(having.directory, again.serialise())
    assert run(kept, having, key=other) == again


def test_what_a_cache_has_under_another_name_by_now_or_no_more_is_fetched_all_the_same(
    having: Server, lacking: Server, kept: Path, tmp_path: Path
) -> None:
    assert run(kept, having)
    old = hostile.right()
    (having.directory / old.url).unlink()
    write(having.directory, signed(replace(old, url="nar/new.nar.xz")), url="nar/new.nar.xz")
    assert fetched(kept, tmp_path / "one", having)

    # The first cache loses it, and one that did not have it a moment ago has it now.
    assert run(kept, having, lacking)
    (having.directory / "nar/new.nar.xz").unlink()
    (having.directory / NARINFO[1:]).unlink()
    write(lacking.directory, signed(old))
    assert fetched(kept, tmp_path / "two", having, lacking)
    assert run(kept, having, lacking)
    assert (having.asked, lacking.asked) == ([INFO], [INFO]), "what was found out then is what is known now"


def fetched(kept: Path, root: Path, *servers: Server) -> bool:
    """Whether PATH comes into an empty store."""
    memory = CacheAnswers(kept)
    caches = Caches([BinaryCache(each.url, (KEY.public,), patience=IMPATIENT, memory=memory) for each in servers])
    with Store.open(str(root), create=True) as store:
        substitute(store, caches, [PATH])
        valid = store.is_valid(PATH)
    caches.close()
    memory.close()
    make_writable(root)
    return valid


# --- the file ---------------------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def of_another_format(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("pragma user_version = 7")
    connection.close()


def garbled(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    file.write_bytes(data)


DAMAGE = {
    "no database": lambda file: file.write_bytes(b"nonsense\n" * 1000),
    "cut": cut,
    "garbled": garbled,
    "empty": lambda file: file.write_bytes(b""),
    "another format": of_another_format,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_passed_over_and_made_anew(
    damage: Callable[[Path], object], having: Server, kept: Path
) -> None:
    right = run(kept, having)
    damage(kept / FILE)
    assert run(kept, having) == right
    assert having.asked == [INFO, NARINFO]
    run(kept, having)  # one that is found damaged when it is read is made anew by the next run
    assert run(kept, having) == right
    assert having.asked == [INFO]


def a_directory(kept: Path) -> None:
    (kept / FILE).mkdir(parents=True)


def a_link(kept: Path) -> None:
    kept.mkdir()
    (kept / FILE).symlink_to(kept.parent / "victim")


def no_directory(kept: Path) -> None:
    kept.write_text("a file")


@pytest.mark.parametrize("hindrance", [a_directory, a_link, no_directory])
def test_where_nothing_can_be_kept_all_works_without(
    hindrance: Callable[[Path], None], having: Server, kept: Path
) -> None:
    hindrance(kept)
    for _ in range(2):
        assert run(kept, having)
        assert having.asked == [INFO, NARINFO]
    assert not (kept.parent / "victim").exists()


def test_a_file_that_another_program_holds_is_left_alone(
    having: Server, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(kept, having)
    monkeypatch.setattr(cache_answers, "_PATIENCE", 0.05)
    holder = sqlite3.connect(kept / FILE, isolation_level=None)
    holder.execute("begin exclusive")
    assert run(kept, having)
    assert having.asked == [INFO, NARINFO]
    holder.execute("rollback")
    holder.close()
    assert run(kept, having)
    assert having.asked == [INFO]


def test_the_oldest_go_when_there_is_too_much(kept: Path) -> None:
    for number in range(10):
        memory = CacheAnswers(kept, most_bytes=5_000)
        memory.keep(f"http://{number}", "a" * 32, b"x" * 1_000)
        memory.keep(f"http://{number}", "b" * 32, b"x" * (cache_answers.LARGEST + 1))
        memory.close()
    assert [cache for cache, _ in rows(kept)] == [f"http://{number}" for number in (6, 7, 8, 9)]


WRITER = """
import sys
from pathlib import Path
from reconciler.packages.cache_answers import CacheAnswers
memory = CacheAnswers(Path(sys.argv[1]))
for number in range(300):
    memory.keep(sys.argv[2], f"{number}", b"x")
    memory.recall(sys.argv[2], "0")
"""


def test_several_programs_keep_their_answers_at_once(kept: Path) -> None:
    """None of them closes it: what waits is written when a program ends."""
    programs = [subprocess.Popen([sys.executable, "-c", WRITER, str(kept), f"http://{n}"]) for n in range(4)]
    assert [program.wait(60) for program in programs] == [0, 0, 0, 0]
    assert len(rows(kept)) == 4 * 300
