"""What is shown while a run goes on: on a terminal live, else a plain line for each host and state."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from reconciler.cli.output import Output, visible
from reconciler.cli.render.progress import Board, building_words, fetching_words, phase_line, plain_line
from reconciler.core.build.events import BuildEvent
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.outcomes import State

if TYPE_CHECKING:
    from rich.live import Live as RichLive
    from rich.text import Text

    from reconciler.core.store.substitute import SubstituteEvent

# Redrawing costs the controller time that its transfers could use.
_REDRAWS_PER_SECOND = 8


@contextlib.contextmanager
def progress(output: Output, verbose: bool) -> Iterator[Observer]:
    """An observer that shows a run on `output`'s stderr for as long as the block lasts."""
    if not output.live:
        yield Plain(output, verbose)
        return
    live = Live(output, verbose)
    with live.shown():
        yield live


class Plain:
    """A line for each host and state; nothing is rewritten."""

    def __init__(self, output: Output, verbose: bool, clock: Callable[[], float] = time.time) -> None:
        self._output = output
        self._verbose = verbose
        self._clock = clock
        self._lock = threading.Lock()

    def phase_begins(self, phase: Phase, hosts: tuple[str, ...]) -> None: ...

    def phase_ends(self, phase: Phase, summary: str) -> None: ...

    def host_changed(self, host: str, state: State, detail: str) -> None:
        if state is not State.REALISED:
            self._say(plain_line(self._clock(), host, state, detail))

    def copying(self, host: str, done: int, total: int) -> None: ...

    def building(self, where: str, event: BuildEvent) -> None:
        words = building_words(event, self._verbose)
        if words:
            self._say(f"{time.strftime('%H:%M:%S', time.localtime(self._clock()))} {where} {words}")

    def fetching(self, where: str, event: SubstituteEvent) -> None:
        words = fetching_words(event)
        if words:
            self._say(f"{time.strftime('%H:%M:%S', time.localtime(self._clock()))} {where} {words}")

    def noted(self, text: str) -> None:
        self._say(text)

    def _say(self, line: str) -> None:
        with self._lock:
            self._output.note(line)


class Live:
    """The hosts that are at work, redrawn in place; what is finished scrolls away above them."""

    def __init__(self, output: Output, verbose: bool) -> None:
        self._board = Board()
        self._verbose = verbose
        self._lock = threading.Lock()
        self._console = output.console()
        self._live: RichLive | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        from rich.live import Live as RichLive

        self._live = RichLive(
            get_renderable=self._drawn,
            console=self._console,
            refresh_per_second=_REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with self._live:
            yield

    def phase_begins(self, phase: Phase, hosts: tuple[str, ...]) -> None:
        with self._lock:
            self._board.begin(phase, hosts, time.monotonic())

    def phase_ends(self, phase: Phase, summary: str) -> None:
        with self._lock:
            line = phase_line(phase, self._board.states(), summary)
            self._board.end()
        self._print(line)

    def host_changed(self, host: str, state: State, detail: str) -> None:  # noqa: ARG002  (the report says it)
        with self._lock:
            self._board.change(host, state)

    def copying(self, host: str, done: int, total: int) -> None:
        with self._lock:
            self._board.copy(host, done, total)

    def building(self, where: str, event: BuildEvent) -> None:
        with self._lock:
            self._board.build(where, event)
        if self._verbose:
            self._print(f"{where} {building_words(event, verbose=True)}")

    def fetching(self, where: str, event: SubstituteEvent) -> None:
        with self._lock:
            self._board.copy(f"{where}  fetches", event.done, event.total)

    def noted(self, text: str) -> None:
        self._print(text)

    def _print(self, line: str) -> None:
        if line:
            # What is printed scrolls away above the board as it was last drawn: not as it stood in the phase before.
            if self._live is not None:
                self._live.refresh()
            self._console.print(visible(line), markup=False)

    def _drawn(self) -> Text:
        from rich.text import Text

        width, height = self._console.size
        with self._lock:
            lines = self._board.lines(time.monotonic(), max(3, height - 4))
        return Text(visible("\n".join(line[: width - 1] for line in lines)), no_wrap=True)
