"""The sweeps: one operation, disturbed at each of its calls in turn, and the checker after every case."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.faults import checker, child
from tests.faults.checker import Outcome
from tests.faults.child import Call, Ended, Injection
from tests.faults.disks import Copies, Disk, Ground, Memory, Power, Room
from tests.faults.scenarios import Scenario

KILL = "signal=SIGKILL"


@dataclass
class Swept:
    """What a sweep came to. `points`: cases tried, `of` as many as there are (0: those that were tried);
    `violations`: each names its case."""

    operation: str
    kind: str
    points: int = 0
    of: int = 0
    violations: list[str] = field(default_factory=list)
    red: int = 0  # cases with at least one violation
    seconds: float = 0.0

    def add(self, case: str, found: Sequence[str]) -> None:
        self.points += 1
        self.red += bool(found)
        self.violations += [f"{self.operation}, {self.kind}, {case}: {one}" for one in found]


@dataclass(frozen=True)
class Loss:
    """How the power goes. `twice`: once more while the same operation runs again, at another call each time."""

    power: Power
    twice: bool = False


def sample(points: Sequence[Call], count: int | None) -> list[Call]:
    """All of them, or `count` spread evenly, the first and the last among them."""
    if count is None or count >= len(points):
        return list(points)
    if count < 2:
        return list(points[-1:])
    return [points[round(index * (len(points) - 1) / (count - 1))] for index in range(count)]


# --- what follows a fault ---------------------------------------------------------------------------------------------


def _outcome(ended: Ended) -> Outcome:
    if ended.acknowledged:
        return Outcome.NEW
    if "could not be undone" in ended.refusal:
        return Outcome.EITHER
    return Outcome.OLD if ended.refusal or ended.crash else Outcome.EITHER


def _aftermath(scenario: Scenario, ground: Ground, ended: Ended, nix_first: bool) -> Iterator[str]:
    """The checker now, and after the operation was run again; what is left over is gone after one collection.

    With `nix_first` real Nix looks at the host, and collects, before the operation runs again; else afterwards.
    """
    root, expected = ground.root, scenario.expected
    if ended.hung:
        yield f"it did not end within {child.PATIENCE:.0f} s"
    if ended.crash:
        yield f"it ended with what is no error of ours: {ended.crash}"
    yield from checker.check(root, expected, _outcome(ended))
    if nix_first and (root / "nix/var/nix/db/schema").exists():
        if scenario.right_before:
            yield from checker.nix_verify(root)
        yield from checker.nix_collect(root)
        yield from (f"after a collection: {one}" for one in checker.check(root, expected, Outcome.EITHER))
    yield from _again(scenario, ground)


def _again(scenario: Scenario, ground: Ground) -> Iterator[str]:
    root, expected = ground.root, scenario.expected
    again = child.run(scenario.operate, str(root))
    if not again.acknowledged:
        yield f"the same again failed: {again.refusal}{again.crash}"
        return
    yield from (f"after the same again: {one}" for one in checker.check(root, expected, Outcome.NEW))
    yield from (f"after the same again: {one}" for one in checker.nix_verify(root))
    yield from (f"after the same again: {one}" for one in checker.nix_collect(root))
    yield from (f"after the same again: {one}" for one in checker.leftovers(root))
    yield from (f"after a last collection: {one}" for one in checker.check(root, expected, Outcome.NEW))


# --- sweeps -----------------------------------------------------------------------------------------------------------


def kills(scenario: Scenario, ground: Copies, operate: child.Operate, count: int | None) -> Swept:
    """SIGKILL at each call."""
    swept = Swept(scenario.name, "killed")
    with _Timed(swept):
        points = _points(scenario, ground)
        swept.of = len(points)
        for index, call in enumerate(sample(points, count)):
            ground.renew()
            ended = child.disturb(operate, str(ground.root), Injection(call, KILL))
            swept.add(str(call), list(_aftermath(scenario, ground, ended, nix_first=index % 2 == 0)))
    return swept


def errors(scenario: Scenario, ground: Copies, operate: child.Operate, error: str, count: int | None) -> Swept:
    """The disk is full, or broken, at each call that writes. Nothing temporary is left, also before a collection."""
    swept = Swept(scenario.name, error)
    with _Timed(swept):
        points = [call for call in _points(scenario, ground) if call.writes]
        swept.of = len(points)
        for index, call in enumerate(sample(points, count)):
            ground.renew()
            ended = child.disturb(operate, str(ground.root), Injection(call, f"error={error}"))
            found = checker.leftovers(ground.root)
            swept.add(str(call), [*found, *_aftermath(scenario, ground, ended, nix_first=index % 2 == 0)])
    return swept


def shortages(scenario: Scenario, ground: Memory, operate: child.Operate, room: Room, count: int | None) -> Swept:
    """There is room for so much and no more until the operation has ended, from none at all to as much as it needs."""
    swept = Swept(scenario.name, room.value)
    with _Timed(swept):
        amounts = _amounts()
        for index in range(_MOST_AMOUNTS):
            amount = next(amounts)
            swept.of = index + 1
            ground.renew()
            ground.leave(room, amount)
            ended = child.run(operate, str(ground.root))
            ground.leave_plenty()
            if ended.acknowledged or count is None or index % max(1, _USUAL_AMOUNTS // count) == 0:
                found = checker.leftovers(ground.root)
                found += _aftermath(scenario, ground, ended, nix_first=index % 2 == 0)
                swept.add(f"with {amount} left: {ended.refusal}", found)
            if ended.acknowledged:
                break
        else:
            swept.add(f"with {amount} left", [f"it still failed: {ended.refusal}"])
    return swept


_MOST_AMOUNTS, _USUAL_AMOUNTS = 300, 40


def _amounts() -> Iterator[int]:
    amount = 0
    while True:
        yield amount
        amount += 1 + amount // 16


def power_losses(scenario: Scenario, ground: Disk, operate: child.Operate, loss: Loss, count: int | None) -> Swept:
    """The power goes at each call, and after the operation said that it was done."""
    swept = Swept(scenario.name, f"power lost{' twice' if loss.twice else ''}, {loss.power.label}")
    with _Timed(swept):
        points = _points(scenario, ground)
        swept.of = len(points) + 1
        for index, call in enumerate([*sample(points, count), None]):
            ground.renew()
            ended = _until(call, operate, ground)
            ground.lose_power(loss.power)
            found = []
            if loss.twice:
                found += checker.check(ground.root, scenario.expected, _outcome(ended))
                second = points[(index * 7 + 3) % len(points)]
                ended = _until(second, operate, ground)
                ground.lose_power(loss.power)
            found += _aftermath(scenario, ground, ended, nix_first=index % 2 == 0)
            swept.add(str(call) if call else "acknowledged", found)
    return swept


def _until(call: Call | None, operate: child.Operate, ground: Ground) -> Ended:
    if call is None:
        return child.run(operate, str(ground.root))
    return child.disturb(operate, str(ground.root), Injection(call, KILL))


def _points(scenario: Scenario, ground: Ground) -> tuple[Call, ...]:
    """The calls of an undisturbed run, which is checked like every other."""
    ground.renew()
    calls = child.list_calls(scenario.operate, str(ground.root))
    found = list(_aftermath(scenario, ground, Ended(True), nix_first=True))
    assert not found, f"{scenario.name}, undisturbed: {found}"
    return calls


class _Timed:
    def __init__(self, swept: Swept) -> None:
        self._swept, self._started = swept, time.monotonic()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._swept.seconds = time.monotonic() - self._started
