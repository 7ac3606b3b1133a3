"""Every sweep by name, and how one is run: in a process of its own, in namespaces of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults import sweeps
from tests.faults.child import Operate
from tests.faults.disks import NAMESPACES, Copies, Disk, Memory, Power, Room, scratch_directory
from tests.faults.sabotage import sabotaged
from tests.faults.scenarios import SCENARIOS, Scenario, World
from tests.faults.sweeps import Loss, Swept

PROJECT = Path(__file__).parents[2]
POWER = {
    "power": Loss(Power.NOTHING_FLUSHED),
    "power-journal": Loss(Power.JOURNAL_FLUSHED),
    "power-twice": Loss(Power.JOURNAL_FLUSHED, twice=True),
}
ERRORS = ("ENOSPC", "EIO")
ROOM = {"space": Room.SPACE, "inodes": Room.INODES}
KINDS = ("kill", *ERRORS, *ROOM, *POWER)


@dataclass(frozen=True)
class Case:
    """One operation and one kind of fault, every point of it or `count` points. `without`: what is taken out of the
    program (see sabotage)."""

    operation: str
    kind: str
    count: int | None = None
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join((self.operation, self.kind, *(f"without-{one}" for one in self.without)))


ALL = tuple(Case(operation, kind) for operation in SCENARIOS for kind in KINDS)
# Each takes one thing out and names the sweep that has to see it.
CONTROLS = (
    Case("add", "kill", 6, ("files-before-rows",)),
    Case("switch", "kill", None, ("rename",)),
    Case("switch", "EIO", None, ("tidying",)),
    Case("add", "power-journal", 12, ("syncfs",)),
    Case("switch", "power", 4, ("fsync",)),
    Case("add", "power", 4, ("database-sync",)),
    Case("first", "power-journal", 12, ("every-sync",)),
    Case("gc", "power-journal", 25, ("database-sync",)),
    Case("repair", "power-journal", 12, ("every-sync",)),
)


def run(case: Case) -> Swept:
    """Carry the sweep out, in a process of its own. What that process says when it fails is the error."""
    command = [*NAMESPACES, sys.executable, "-m", "tests.faults.cases", json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{case.name}: {done.stderr}"
    return Swept(**json.loads(done.stdout.splitlines()[-1]))


def run_control(case: Case) -> Swept:
    """A control, until it is red, but at most five times: while something on this machine calls sync(2), or the kernel
    writes back because there is much to write, nothing is lost that the program did not make durable."""
    for _ in range(4):
        swept = run(case)
        if swept.red:
            return swept
    return run(case)


def _here(case: Case) -> Swept:
    with tempfile.TemporaryDirectory(dir=scratch_directory(), prefix="reconciler-faults-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)  # users deploy to their homes below it
        world = World.make(directory / "source")
        scenario = SCENARIOS[case.operation](world)
        world.source.close()
        return _sweep(case, scenario, sabotaged(scenario.operate, case.without), directory)


def _sweep(case: Case, scenario: Scenario, operate: Operate, directory: Path) -> Swept:
    if case.kind in POWER:
        disk = Disk(directory, scenario.prepare)
        try:
            return sweeps.power_losses(scenario, disk, operate, POWER[case.kind], case.count)
        finally:
            disk.close()
    if case.kind in ROOM:
        memory = Memory(directory, scenario.prepare)
        try:
            return sweeps.shortages(scenario, memory, operate, ROOM[case.kind], case.count)
        finally:
            memory.close()
    copies = Copies(directory, scenario.prepare)
    if case.kind == "kill":
        return sweeps.kills(scenario, copies, operate, case.count)
    return sweeps.errors(scenario, copies, operate, case.kind, case.count)


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    swept = _here(Case(wanted["operation"], wanted["kind"], wanted["count"], tuple(wanted["without"])))
    print(json.dumps(asdict(swept)))
