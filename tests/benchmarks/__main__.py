"""`make bench`: the tables of docs/benchmarks.md. Needs root and real Nix; the fleet's also real OpenSSH.

`python -m tests.benchmarks [fleet] [store] [packages] [memory] [CASE...]` takes only those; a CASE is named as in
store.CASES, packages.CASES and substituting.CASES.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import fleet, memory, packages, store, substituting

TABLES = {
    "fleet": fleet.rows,
    "store": store.rows,
    "packages": lambda scratch: store.rows(scratch, {**packages.CASES, **substituting.CASES}.values()),
    "memory": memory.rows,
}
CASES = {**store.CASES, **packages.CASES, **substituting.CASES}


def main(*wanted: str) -> None:
    if os.geteuid() != 0:
        sys.exit("make bench needs root: it starts real sshd hosts in namespaces of their own, and Nix's sandbox")
    unknown = set(wanted) - TABLES.keys() - CASES.keys()
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: unknown; there are {', '.join([*TABLES, *CASES])}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # by way of every umount
    cases = [CASES[name] for name in wanted if name in CASES]
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as scratch:
        for name, table in TABLES.items():
            if not wanted or name in wanted:
                _print(table(_folder(scratch, name)))
        if cases:
            _print(store.rows(_folder(scratch, "cases"), cases))


def _folder(scratch: str, name: str) -> Path:
    made = Path(scratch, name)
    made.mkdir()
    return made


def _print(rows: list[str]) -> None:
    print("\n".join(rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
