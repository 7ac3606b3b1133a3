"""`python -m tests.faults`: every sweep at every point, and the controls; prints the tables of docs/reliability.md.

Needs root. With words only the sweeps whose name has each of them: `python -m tests.faults add power`. With `--write`
the tables are put into docs/reliability.md as well. Violations go to standard error; the status is 1 when there is one,
or when a control stays green.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tests.faults.cases import ALL, CONTROLS, PROJECT, Case, run, run_control
from tests.faults.sweeps import Swept

JOBS = 2  # each sweep is one process at a time
PAGE = PROJECT / "docs/reliability.md"
FIGURES = "| operation | what happens | points tried | of | violations | date |\n|---|---|---|---|---|---|"
REDS = "| taken out | operation | what happens | points tried | red points |\n|---|---|---|---|---|"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("words", nargs="*", help="only sweeps whose name has each of them")
    parser.add_argument("--points", type=int, help="try so many points of each, spread evenly (default: all)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    wanted = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("python -m tests.faults needs root: it mounts disks and cuts their power")
    sweeps = [replace(case, count=wanted.points) for case in _chosen(ALL, wanted.words)]
    controls = _chosen(CONTROLS, wanted.words)
    with ThreadPoolExecutor(JOBS) as pool:
        found, reds = pool.map(run, sweeps), pool.map(run_control, controls)
        figures, violations = _figures(found)
        control_rows, green = _controls(controls, reds)
    if wanted.write:
        write(figures, control_rows)
    return 1 if violations or green else 0


def _chosen(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    return [case for case in cases if set(words) <= set(case.name.split())]


def _figures(found: Iterable[Swept]) -> tuple[list[str], int]:
    """The rows, printed as they come, and how many violations there were."""
    rows, violations = [FIGURES], 0
    print(FIGURES)
    for swept in found:
        date = time.strftime("%Y-%m-%d")
        counted = f"{swept.points:,} | {swept.of or swept.points:,} | {len(swept.violations)}"
        rows.append(f"| {swept.operation} | {swept.kind} | {counted} | {date} |")
        print(rows[-1], flush=True)
        for one in swept.violations:
            print(one, file=sys.stderr, flush=True)
        violations += len(swept.violations)
    return rows, violations


def _controls(cases: Sequence[Case], reds: Iterable[Swept]) -> tuple[list[str], int]:
    """The rows, and how many controls stayed green."""
    rows, green = [REDS], 0
    print(f"\n{REDS}")
    for case, swept in zip(cases, reds, strict=True):
        without = ", ".join(case.without)
        rows.append(f"| {without} | {swept.operation} | {swept.kind} | {swept.points:,} | {swept.red} |")
        print(rows[-1], flush=True)
        green += swept.red == 0
    return rows, green


def write(figures: Sequence[str], controls: Sequence[str]) -> None:
    """Put the tables into the page, between their marks."""
    text = PAGE.read_text()
    for mark, rows in (("figures", figures), ("controls", controls)):
        head, _, rest = text.partition(f"<!-- {mark} -->\n")
        _, _, tail = rest.partition(f"<!-- {mark} end -->")
        text = f"{head}<!-- {mark} -->\n" + "\n".join(rows) + f"\n<!-- {mark} end -->{tail}"
    PAGE.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
