"""Core's formats and store put to work with the standard library alone: run by each Python, compared by test_pythons.

`python3 -I -S exercise.py SOURCE GOLDEN WORK` prints, as JSON, what each step came to; nothing in it may depend on the
interpreter, the time or WORK.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def nar_round_trip(golden: str, work: str) -> Any:
    from reconciler.core.nix import nar

    with open(os.path.join(golden, "nar/tree.nar"), "rb") as file:
        data = file.read()
    fd = os.open(work, os.O_RDONLY)
    try:
        consumed = nar.restore(io.BytesIO(data), fd, "tree")
    finally:
        os.close(fd)
    found, size = nar.hash_path(os.path.join(work, "tree"))
    again = b"".join(nar.dump(os.path.join(work, "tree")))
    return [consumed, found.sri, size, again == data, nar.encode(nar.decode(data)) == data]


def wrong_archives(golden: str, work: str) -> Any:
    from reconciler.core.errors import ReconcilerError
    from reconciler.core.nix import nar

    with open(os.path.join(golden, "nar/tree.nar"), "rb") as file:
        data = file.read()
    told = []
    for at in range(0, len(data), 7):
        try:
            nar.decode(data[:at] + bytes((data[at] ^ 0x41,)) + data[at + 1 :])
        except ReconcilerError as error:
            told.append(f"{type(error).__name__}: {error}")
        else:
            told.append("read")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def derivations(golden: str, work: str) -> Any:
    from reconciler.core.nix import derivation
    from reconciler.core.nix.store_path import StorePath

    folder = os.path.join(golden, "derivations")

    def read(path: StorePath) -> derivation.Derivation:
        with open(os.path.join(folder, path.base_name), "rb") as file:
            return derivation.Derivation.parse(file.read())

    names = sorted(name for name in os.listdir(folder) if name.endswith(".drv"))
    results = []
    for path in map(StorePath.from_base_name, names):
        drv = read(path)
        again = derivation.with_outputs(drv, path.name[:-4], read)
        results.append([str(again.path(path.name[:-4])), again == drv])
    return results


def store(golden: str, work: str) -> Any:
    from reconciler.core.errors import ReconcilerError
    from reconciler.core.nix import derivation, nar
    from reconciler.core.nix.derivation import Derivation, Output
    from reconciler.core.nix.hashes import Hash
    from reconciler.core.store.store import Store

    root = os.path.join(work, "root")
    with Store.open(root, create=True) as opened:
        leaf = opened.add_text("leaf", b"x")
        tree = opened.add_tree("tree", nar.Directory({"l": nar.Link(str(leaf)), "x": nar.File(b"1", True)}), [leaf])
        copied = opened.add_path("copied", os.path.join(work, "tree"))
        with open(os.path.join(work, "flat"), "wb") as file:
            file.write(b"flat")
        fixed = opened.add_fixed("flat", os.path.join(work, "flat"), Hash.sha256(b"flat"))
        drv = Derivation({"out": Output(None)}, {}, (tree,), "builtin", "/bin/sh", (), {"name": "d"})
        drv_path = opened.write_derivation(derivation.with_outputs(drv, "d", opened.read_derivation), "d")
        told = []
        try:
            opened.add_nar(opened.info(leaf), io.BytesIO(b""))
        except ReconcilerError as error:
            told.append(str(error))
        opened.add_root("kept", drv_path)
    with Store.open(root) as opened:
        closure = opened.closure([drv_path, copied, fixed])
        infos = [
            [str(i.path), i.nar_hash.nix, i.nar_size, [*map(str, i.references)], i.ca] for i in opened.infos(closure)
        ]
        outputs = {name: str(path) for name, path in opened.derivation_outputs(drv_path).items()}
        return [infos, outputs, told, hashlib.sha256(b"".join(opened.nar(tree))).hexdigest()]


STEPS: tuple[Callable[[str, str], Any], ...] = (nar_round_trip, wrong_archives, derivations, store)


def main() -> None:
    source, golden, work = sys.argv[1:]
    sys.path.insert(0, source)
    print(json.dumps({step.__name__: step(golden, work) for step in STEPS}))


if __name__ == "__main__":
    main()
