"""Peak memory of ours against the size of what passes through: it has to be flat.

As the kernel counted it (VmHWM) in a process that does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import material
from tests.benchmarks.store import ours

SHAPES: dict[str, Callable[[Path], Path]] = {
    "one file of 10 MB": lambda path: material.large_file(path, 10 * 10**6),
    "one file of 500 MB": lambda path: material.large_file(path, 500 * 10**6),
    "500 files, 20 MB": lambda path: material.tree(path, 500, 20 * 10**6),
    "20,000 files, 200 MB": lambda path: material.tree(path, 20_000, 200 * 10**6),
}


def rows(scratch: Path) -> list[str]:
    """The lines of a table: MiB by operation and shape."""
    made = ["| what passes through | dump | restore | import |", "|---|---|---|---|"]
    for title, make in SHAPES.items():
        with material.disk(scratch) as work:
            peaks = [f"{peak:.0f} MiB" for peak in _peaks(work, make(work / "thing"))]
        made.append("| " + " | ".join([title, *peaks]) + " |")
    return made


def _peaks(work: Path, thing: Path) -> list[float]:
    from reconciler.core.nix import nar
    from reconciler.core.store.exporting import export_paths
    from reconciler.core.store.store import Store

    archive, stream = work / "archive.nar", work / "stream"
    with archive.open("wb") as file:
        file.writelines(nar.dump(str(thing)))
    with Store.open(str(work / "source"), create=True) as store, stream.open("wb") as file:
        export_paths(store, [store.add_path("thing", str(thing))], file.write)
    done = [
        ours("dump", thing),
        ours("restore", work / "out", stdin=archive),
        ours("import_stream", work / "root", stdin=stream),
    ]
    return [one.peak for one in done]
