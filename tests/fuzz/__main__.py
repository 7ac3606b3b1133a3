"""`python -m tests.fuzz [TARGET…] [--seconds N]`: fuzz parsers one after another; status 1 when it finds something."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from tests.fuzz.engine import Finding, child, run_target
from tests.fuzz.targets import TARGETS


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; none: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="in all, shared equally (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("ours", "atheris"), default="", help="atheris where it is installed")
    parser.add_argument("--learnt", type=Path, help="where atheris keeps what it learns (the temporary directory)")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target is called {', '.join(unknown)}")
    found = False
    for name in names:
        result = run_target(name, given.seconds / len(names), given.seed, given.engine, given.learnt)
        print(result, flush=True)
        for finding in result.findings:
            found = True
            _tell(name, finding)
    return 1 if found else 0


def _tell(name: str, finding: Finding) -> None:
    place = Path(tempfile.gettempdir()) / f"finding-{name}-{hashlib.sha256(finding.data).hexdigest()[:12]}"
    place.write_bytes(finding.data)
    print(f"--- {finding.place}: {place} ({len(finding.data)} bytes)\n{finding.what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
