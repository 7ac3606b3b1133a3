from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.cli.output import Output
from reconciler.cli.progress import Live, Plain, progress
from reconciler.cli.render.progress import Board, building_words, package_of, phase_line, plain_line
from reconciler.core.build.events import BuildEvent
from reconciler.fleet.events import Phase
from reconciler.fleet.outcomes import State
from tests.cli.test_ask import Screen
from tests.cli.values import NOW

MIB = 2**20
DRV = "/nix/store/" + "a" * 32 + "-shop-app-2.8.1.drv"


def event(kind: str, detail: str = "") -> BuildEvent:
    return BuildEvent(kind, DRV, detail)


def test_a_plain_line_has_the_clock_the_host_and_the_state() -> None:
    assert plain_line(NOW, "web03", State.STAGED, "") == "15:00:00 web03 staged"
    line = plain_line(NOW, "web03", State.FAILED, 'no "room"  left\nthe last lines of its log:\n  …')
    assert line == '15:00:00 web03 failed reason="no \\"room\\" left"'


def test_a_phase_is_told_host_by_host() -> None:
    states = {"web01": State.STAGED, "web02": State.STAGED, "web03": State.UNREACHABLE}
    assert phase_line(Phase.STAGE, states, "2 of 3 in 2.4 s") == (
        "stage    web01 ok   web02 ok   web03 UNREACHABLE   2 of 3 in 2.4 s; nothing has changed yet"
    )
    assert (
        phase_line(Phase.SWITCH, {"web01": State.CONFIRMED}, "1 of 1 within 0.2 s")
        == "switch   web01 ok   1 of 1 within 0.2 s"
    )
    assert phase_line(Phase.REALISE, {}, "hello built in 41 s") == "realise  hello built in 41 s"
    assert phase_line(Phase.PROBE, {"web01": State.PLANNED}, "") == ""


def test_a_phase_of_many_hosts_names_only_those_that_stayed_behind() -> None:
    states = {f"web{n}": State.STAGED for n in range(99)} | {"web99": State.FAILED}
    assert phase_line(Phase.STAGE, states, "99 of 100 in 9 s") == (
        "stage    99 ok   web99 FAILED   99 of 100 in 9 s; nothing has changed yet"
    )


@pytest.mark.parametrize(
    ("kind", "verbose", "words"),
    [
        ("start", False, "builds shop-app-2.8.1"),
        ("start fetch", False, "fetches shop-app-2.8.1"),
        ("done fetch", False, "fetched shop-app-2.8.1"),
        ("done", False, "built shop-app-2.8.1"),
        ("failed", False, "failed to make shop-app-2.8.1"),
        ("log", False, ""),
        ("log", True, "shop-app-2.8.1: gcc -c main.c"),
    ],
)
def test_what_a_build_prints_is_shown_to_who_asks_for_it(kind: str, verbose: bool, words: str) -> None:
    kind, _, detail = kind.partition(" ")
    assert building_words(event(kind, detail or ("gcc -c main.c" if kind == "log" else "")), verbose) == words


def test_the_environment_that_every_profile_has_is_not_worth_a_line() -> None:
    environment = BuildEvent("done", "/nix/store/" + "b" * 32 + "-user-environment.drv", "")
    assert building_words(environment, verbose=False) == ""
    assert building_words(environment, verbose=True) == "built user-environment"


def test_a_derivation_is_called_by_its_name() -> None:
    assert package_of(DRV) == "shop-app-2.8.1"
    assert package_of("strange") == "strange"


def test_the_board_shows_hosts_that_are_at_work_first() -> None:
    board = Board()
    assert board.lines(0, 10) == []
    board.begin(Phase.STAGE, ("web01", "web02", "web03"), 100.0)
    board.copy("web02", 3 * MIB, 6 * MIB)
    board.change("web01", State.REALISED)
    board.change("web03", State.STAGED)
    board.build("here", event("start"))
    board.build("here", event("log", "gcc -c main.c"))
    assert board.lines(102.4, 10) == [
        "stage    1 of 3 hosts   2.4 s",
        "  here  builds shop-app-2.8.1   gcc -c main.c",
        "  web02  ██████████░░░░░░░░░░  3.0 MiB of 6.0 MiB",
        "  web01",
    ]
    board.build("here", event("done"))
    assert len(board.lines(102.4, 10)) == 3


def test_a_board_never_grows_past_the_screen() -> None:
    board = Board()
    board.begin(Phase.SWITCH, tuple(f"web{n}" for n in range(50)), 0.0)
    lines = board.lines(1.0, 6)
    assert len(lines) == 6
    assert lines[-1] == "  … and 46 more"


def test_without_a_terminal_progress_is_plain_lines_each_whole() -> None:
    err = io.StringIO()
    observer = Plain(Output(io.StringIO(), err), verbose=False, clock=lambda: NOW)
    observer.phase_begins(Phase.STAGE, ("web01",))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: observer.host_changed(f"web{n}", State.STAGED, ""), range(100)))
    observer.host_changed("web01", State.REALISED, "")
    observer.copying("web01", 1, 2)
    observer.building("here", event("done"))
    observer.phase_ends(Phase.STAGE, "100 of 100")
    lines = err.getvalue().splitlines()
    assert len(lines) == 101
    assert all(re.fullmatch(r"15:00:00 web\d+ staged", line) for line in lines[:-1])
    assert lines[-1] == "15:00:00 here built shop-app-2.8.1"
    assert "\x1b" not in err.getvalue()


def test_what_is_chosen_depends_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress(Output(io.StringIO(), io.StringIO()), verbose=False) as observer:
        assert isinstance(observer, Plain)
    with progress(Output(io.StringIO(), Screen()), verbose=False) as observer:
        assert isinstance(observer, Live)
    monkeypatch.setenv("TERM", "dumb")
    with progress(Output(io.StringIO(), Screen()), verbose=False) as observer:
        assert isinstance(observer, Plain)


def test_on_a_terminal_finished_phases_scroll_away_above_what_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    with progress(Output(io.StringIO(), screen), verbose=False) as observer:
        observer.phase_begins(Phase.STAGE, ("web01",))
        observer.copying("web01", 1 * MIB, 2 * MIB)
        observer.host_changed("web01", State.STAGED, "")
        observer.phase_ends(Phase.STAGE, "1 of 1 in 0.1 s")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "stage    web01 ok   1 of 1 in 0.1 s; nothing has changed yet" in text
