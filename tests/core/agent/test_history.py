"""The history: what it keeps, what it survives, and what it says was undone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.core.agent import history
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import GenerationRef, HistoryEntry, HistoryRequest
from reconciler.core.errors import FormatError
from reconciler.core.values import replace

A, B, C = (GenerationRef(number, f"/nix/store/{letter * 32}-x") for number, letter in enumerate("abc", start=1))


def entry(
    before: GenerationRef | None, after: GenerationRef | None, kind: str = "deploy", profile: str = "system", n: int = 1
) -> HistoryEntry:
    return HistoryEntry(f"260312-1412-k{n}", kind, "deployer", float(n), "nginx 1.26, 'ü'\n", profile, before, after)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "history")


def test_entries_are_read_as_they_were_written(file: str) -> None:
    written = (entry(None, A), entry(A, B, n=2))
    history.append(file, written[:1])
    history.append(file, written[1:])
    assert history.read(file) == written
    assert Path(file).read_bytes().startswith(b"reconciler-history 1\n{")
    assert Path(file).read_bytes().count(b"\n") == 3


def test_no_file_is_no_history(file: str) -> None:
    assert history.read(file) == ()


@pytest.mark.parametrize("end", [b"{", b'{"deployment"', b"\x00\x00\x00", b""])
def test_a_last_line_that_was_cut_off_is_not_read_and_goes_with_the_next(end: bytes, file: str) -> None:
    history.append(file, [entry(None, A)])
    with open(file, "ab") as written:
        written.write(end)
    assert history.read(file) == (entry(None, A),)
    history.append(file, [entry(A, B)])
    assert history.read(file) == (entry(None, A), entry(A, B))


def test_a_cut_off_line_longer_than_a_block_goes_too(file: str) -> None:
    history.append(file, [entry(None, A)])
    with open(file, "ab") as written:
        written.write(b"x" * 10_000)
    history.append(file, [entry(A, B)])
    assert b"xx" not in Path(file).read_bytes()
    assert history.read(file) == (entry(None, A), entry(A, B))


def test_a_header_that_was_cut_off_is_written_again(file: str) -> None:
    Path(file).write_bytes(b"reconciler-his")
    history.append(file, [entry(None, A)])
    assert history.read(file) == (entry(None, A),)
    Path(file).write_bytes(b"")
    assert history.read(file) == ()


def test_every_truncation_loses_only_the_last_line(file: str) -> None:
    entries = (entry(None, A), entry(A, B))
    history.append(file, entries)
    whole = Path(file).read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for length in range(start, len(whole)):
        Path(file).write_bytes(whole[:length])
        assert history.read(file) == entries[:1]


def test_a_newer_format_is_refused_by_name(file: str) -> None:
    Path(file).write_text("reconciler-history 2\n")
    with pytest.raises(FormatError, match="has format 2; this reconciler reads formats up to 1"):
        history.read(file)


BAD = ["something else\n", "reconciler-history\n", "reconciler-history x\n", "reconciler-history 1\n{\n"]


@pytest.mark.parametrize("text", [*BAD, "reconciler-history 1\n{}\n", "reconciler-history 1\n[1]\n"])
def test_what_is_no_history_is_refused_naming_the_file(text: str, file: str) -> None:
    Path(file).write_text(text)
    with pytest.raises(FormatError, match=file):
        history.read(file)


def test_a_failed_append_leaves_nothing_of_itself(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history.append(file, [entry(None, A)])
    before = Path(file).read_bytes()

    def full(fd: int, data: bytes) -> None:
        os.write(fd, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fs, "write_all", full)
    with pytest.raises(OSError, match="No space"):
        history.append(file, [entry(A, B)])
    assert Path(file).read_bytes() == before


def test_an_append_is_on_the_disk_when_it_returns(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history.append(file, [])
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    history.append(file, [entry(None, A)])
    assert synced == [file]


def test_the_latest_of_a_profile_is_its_own(file: str) -> None:
    entries = (entry(None, A), entry(A, B, n=2), entry(None, C, profile="user/alice", n=3))
    assert history.latest(entries, "system") == entries[1]
    assert history.latest(entries, "user/bob") is None


# (before, after, kind) of each entry, then the paths that are undone
UNDONE: dict[str, tuple[list[tuple[GenerationRef | None, GenerationRef | None, str]], list[GenerationRef]]] = {
    "nothing was": ([(None, A, "deploy"), (A, B, "deploy")], []),
    "a rollback leads away from B": ([(None, A, "deploy"), (A, B, "deploy"), (B, A, "rollback")], [B]),
    "it was deployed again": ([(A, B, "deploy"), (B, A, "rollback"), (A, B, "deploy")], []),
    "the rollback was rolled back": ([(A, B, "deploy"), (B, A, "rollback"), (A, B, "rollback")], [A]),
    "something else was deployed since": ([(A, B, "deploy"), (B, A, "rollback"), (A, C, "deploy")], [B]),
    "it was replaced after it came again": (
        [(A, B, "deploy"), (B, A, "rollback"), (A, B, "deploy"), (B, C, "deploy")],
        [],
    ),
    "two of them": ([(A, B, "deploy"), (B, A, "rollback"), (A, C, "deploy"), (C, A, "rollback")], [B, C]),
    "a first deployment": ([(None, A, "deploy"), (A, None, "rollback")], [A]),
}


@pytest.mark.parametrize("case", UNDONE)
def test_what_is_undone_is_what_a_rollback_last_led_away_from(case: str) -> None:
    steps, undone = UNDONE[case]
    entries = [entry(before, after, kind, n=n) for n, (before, after, kind) in enumerate(steps)]
    found = history.undone(entries, "system")
    assert [one.before for one in found] == undone
    assert all(one.kind == "rollback" for one in found)
    assert history.undone(entries, "user/alice") == ()


def test_numbers_are_of_no_account_for_what_is_undone() -> None:
    again = replace(B, number=9)
    entries = [entry(A, B), entry(B, A, "rollback"), entry(A, again)]
    assert history.undone(entries, "system") == ()


def test_the_newest_lines_are_told_oldest_first(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    assert history.history(host, HistoryRequest()).entries == ()
    Path(host.own_state).mkdir(parents=True)
    entries = tuple(entry(A, B, n=n) for n in range(5))
    history.append(host.history, entries)
    assert history.history(host, HistoryRequest(limit=2)).entries == entries[3:]
    assert history.history(host, HistoryRequest(limit=0)).entries == ()
    assert history.history(host, HistoryRequest(deployment="260312-1412-k2")).entries == entries[2:3]
