"""The words of a run that goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.cli.render.words import count, duration, size
from reconciler.core.build.events import BuildEvent
from reconciler.fleet.events import Phase
from reconciler.fleet.outcomes import State

if TYPE_CHECKING:
    from reconciler.core.store.substitute import SubstituteEvent

_BAR = 20
# Above this many hosts a phase is told in numbers.
_NAMED = 8
# Every profile has one, and nobody asked for it.
ENVIRONMENT = "user-environment"
_REACHED = {Phase.STAGE: State.STAGED, Phase.SWITCH: State.CONFIRMED}


def plain_line(moment: float, host: str, state: State, detail: str) -> str:
    """`14:12:31 web03 reverted reason="health shop: 502"`."""
    clock = time.strftime("%H:%M:%S", time.localtime(moment))
    # The report has the rest, such as the end of a build's log.
    first = detail.partition("\n")[0]
    reason = f" reason={json.dumps(' '.join(first.split()), ensure_ascii=False)}" if first else ""
    return f"{clock} {host} {state.value}{reason}"


def building_words(event: BuildEvent, verbose: bool) -> str:
    """What is said of a build's event; empty when nothing is."""
    name = package_of(event.derivation)
    if name == ENVIRONMENT and not verbose:
        return ""
    if event.kind == "log":
        return f"{name}: {event.detail}" if verbose else ""
    return f"{_WORDS.get((event.kind, event.detail)) or _WORDS.get((event.kind, ''), event.kind)} {name}"


def fetching_words(event: SubstituteEvent) -> str:
    """What is said of a fetch from binary caches; empty when nothing is."""
    return f"fetches {size(event.total)} from caches" if event.kind == "plan" and event.total else ""


_WORDS = {
    ("start", ""): "builds",
    ("start", "fetch"): "fetches",
    ("done", ""): "built",
    ("done", "fetch"): "fetched",
    ("failed", ""): "failed to make",
}


def package_of(derivation: str) -> str:
    """The name in a derivation's path."""
    base = derivation.rsplit("/", 1)[-1].removesuffix(".drv")
    return base.split("-", 1)[1] if "-" in base and len(base.split("-", 1)[0]) == 32 else base


def phase_line(phase: Phase, states: Mapping[str, State], summary: str) -> str:
    """`stage    web01 ok   web02 ok   web03 FAILED   2 of 3 in 2.4 s; nothing has changed yet`; empty for the probe."""
    if phase is Phase.PROBE:
        return ""
    after = "; nothing has changed yet" if phase is Phase.STAGE else ""
    reached = _REACHED.get(phase)
    if reached is None or not states:
        return f"{phase.value.ljust(9)}{summary}".rstrip()
    return f"{phase.value.ljust(9)}{_hosts(states, reached)}   {summary}{after}"


def _hosts(states: Mapping[str, State], reached: State) -> str:
    if len(states) <= _NAMED:
        return "   ".join(
            f"{host} {'ok' if state is reached else state.value.upper()}" for host, state in states.items()
        )
    good = sum(state is reached for state in states.values())
    rest = [f"{host} {state.value.upper()}" for host, state in states.items() if state is not reached]
    more = f" and {count(len(rest) - _NAMED, 'other')}" if len(rest) > _NAMED else ""
    return "   ".join([f"{good} ok", *rest[:_NAMED]]) + more


@dataclass
class Board:
    """What stands on the screen of a live run. Not for two threads at once."""

    phase: Phase | None = None
    began: float = 0.0
    _states: dict[str, State | None] = field(default_factory=dict)
    _copies: dict[str, tuple[int, int]] = field(default_factory=dict)
    _builds: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def begin(self, phase: Phase, hosts: tuple[str, ...], now: float) -> None:
        self.phase, self.began = phase, now
        self._states = dict.fromkeys(hosts)
        self._copies.clear()
        self._builds.clear()

    def end(self) -> None:
        self.phase = None
        self._states = {}

    def change(self, host: str, state: State) -> None:
        if host in self._states and state is not State.REALISED:
            self._states[host] = state
        self._copies.pop(host, None)

    def copy(self, host: str, done: int, total: int) -> None:
        self._copies[host] = (done, total)

    def build(self, where: str, event: BuildEvent) -> None:
        key = (where, event.derivation)
        if event.kind in ("done", "failed"):
            self._builds.pop(key, None)
        else:
            verb, _ = self._builds.get(key, (_WORDS.get(("start", event.detail), "builds"), ""))
            self._builds[key] = verb, event.detail if event.kind == "log" else ""

    def states(self) -> dict[str, State]:
        return {host: state for host, state in self._states.items() if state is not None}

    def lines(self, now: float, room: int) -> list[str]:
        """At most `room` lines: the phase, then builds, then the hosts that are not done."""
        if self.phase is None:
            return []
        done = len(self.states())
        head = f"{self.phase.value.ljust(9)}{done} of {count(len(self._states), 'host')}   {duration(now - self.began)}"
        body = [
            f"  {where}  {verb} {package_of(drv)}   {log}".rstrip()
            for (where, drv), (verb, log) in self._builds.items()
        ]
        waiting = [host for host, state in self._states.items() if state is None]
        # Hosts that something can be said of come first: the others only wait.
        waiting.sort(key=lambda host: host not in self._copies)
        fetching = [name for name in self._copies if name not in self._states]
        body += [self._host(name) for name in (*fetching, *waiting)]
        if len(body) > room - 1:
            body = [*body[: room - 2], f"  … and {len(body) - room + 2} more"]
        return [head, *body]

    def _host(self, host: str) -> str:
        if host not in self._copies:
            return f"  {host}"
        done, total = self._copies[host]
        filled = _BAR * done // total if total else _BAR
        return f"  {host}  {'█' * filled}{'░' * (_BAR - filled)}  {size(done)} of {size(total)}"
