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


def cache_formats(golden: str, work: str) -> Any:
    from reconciler.core.nix import ed25519, export, listing, narinfo, registration

    folder = os.path.join(golden, "closure")

    def read(name: str) -> bytes:
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()

    infos = [narinfo.parse(read(name), name) for name in sorted(os.listdir(folder)) if name.endswith(".narinfo")]
    exports, archives = export.Exports(io.BytesIO(read("export"))), []
    while exports.more():
        parts: list[bytes] = []
        exports.archive(parts.append)
        trailer = exports.trailer()
        listed = listing.listing(io.BytesIO(b"".join(parts)))
        archives.append([str(trailer.path), listed == read(f"{trailer.path.hash_part}.ls")])
    dumped = b"".join(one.serialise() for one in registration.parse([read("dump-db")], "dump-db"))
    with open(os.path.join(golden, "ed25519/rfc8032.txt"), encoding="ascii") as file:
        vectors = [[bytes.fromhex(part) for part in line.split(":")] for line in file if not line.startswith("#")]
    verified = [[ed25519.verify(*vector), ed25519.verify(vector[0], b"other", vector[2])] for vector in vectors]
    return [[info.serialise().decode() for info in infos], archives, dumped == read("dump-db"), verified]


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


def garbage(_: str, work: str) -> Any:
    from reconciler.core.nix import nar
    from reconciler.core.store.gc import GcOptions, collect
    from reconciler.core.store.live import find_roots
    from reconciler.core.store.optimise import optimise
    from reconciler.core.store.store import Store

    root = os.path.join(work, "root-of-garbage")
    with Store.open(root, create=True) as opened:
        kept, dead = (opened.add_tree(name, nar.Directory({"f": nar.File(b"equal")})) for name in ("kept", "dead"))
        referrer = opened.add_text("referrer", b"x", [dead])
        linked = optimise(opened)
        opened.add_root("kept", kept)
        roots = sorted(str(path) for path in find_roots(opened).values())
    with Store.open(root) as opened:
        told, done = collect(opened, GcOptions(dry_run=True)), collect(opened, GcOptions())
        valid = [str(path) for path in sorted(opened.valid([kept, dead, referrer]))]
    return [[linked.files, linked.freed], roots, [told == done, done.deleted, done.freed, done.kept], valid]


def upkeep(_: str, work: str) -> Any:
    from reconciler.core.nix import nar
    from reconciler.core.store.dump import dump_db
    from reconciler.core.store.exporting import export_paths, import_paths
    from reconciler.core.store.repair import repair_in_place, repair_links, repair_path
    from reconciler.core.store.store import Store
    from reconciler.core.store.tree import tree
    from reconciler.core.store.verify import verify

    told: list[Any] = []
    with Store.open(os.path.join(work, "root-of-upkeep"), create=True) as opened:
        leaf = opened.add_text("leaf", b"x")
        data = nar.encode(nar.Directory({"x": nar.File(b"right")}))
        top = opened.add_tree("top", nar.decode(data), [leaf])
        file = os.path.join(opened.real(top), "x")
        os.chmod(file, 0o644)
        told.append([[each.kind, each.detail] for each in verify(opened).findings])
        told.append(repair_in_place(opened, top))
        os.unlink(opened.real(leaf))
        os.symlink("/elsewhere", opened.real(leaf))
        repair_path(opened, io.BytesIO(nar.encode(nar.File(b"x"))), opened.info(leaf))
        told.append([[each.kind, each.detail] for each in verify(opened).findings])
        told.append(repair_links(opened))
        told.append([line.draw() for line in tree(opened, top)])
        stream = io.BytesIO()
        export_paths(opened, [leaf, top], stream.write)
        with Store.open(os.path.join(work, "other"), create=True) as other:
            import_paths(other, io.BytesIO(stream.getvalue()))
            told.append(b"".join(dump_db(other)) == b"".join(dump_db(opened)))
        told.append(b"".join(dump_db(opened)).decode())
    return told


def caches(golden: str, work: str) -> Any:
    """A right cache, and every one of golden/hostile/cache: what is said of it, or that it was taken."""
    from reconciler.core.errors import ReconcilerError
    from reconciler.core.nix import narinfo
    from reconciler.core.nix.signature import PublicKey
    from reconciler.core.store import compression
    from reconciler.core.store.binary_cache import BinaryCache, Caches
    from reconciler.core.store.store import Store
    from reconciler.core.store.substitute import substitute

    folder, place = os.path.join(golden, "hostile/cache"), os.path.join(work, "cache")

    def read(name: str) -> bytes:
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()

    def write(name: str, data: bytes) -> None:
        with open(os.path.join(place, name), "wb") as file:
            file.write(data)

    os.makedirs(os.path.join(place, "nar"))
    right = narinfo.parse(read("right.narinfo"), "right")
    key = PublicKey.parse("cache.test-1:7dVy08D887jUCyx1A9xFCoqMODzcLHp/hFH/7GOHRDI=")
    write("nix-cache-info", b"StoreDir: /nix/store\n")
    write(right.url, read("right.nar.xz"))
    told: list[Any] = []
    with Store.open(os.path.join(work, "root-of-caches"), create=True) as opened:
        for name in sorted(os.listdir(folder), key=lambda name: (name == "right.narinfo", name)):
            if name.endswith(".narinfo"):
                write(f"{right.path.hash_part}.narinfo", read(name))
                try:
                    done = substitute(opened, Caches([BinaryCache(f"file://{place}", [key])]), [right.path])
                    told.append([name, [str(path) for path in done.fetched]])
                except ReconcilerError as error:
                    told.append([name, str(error).replace(place, "PLACE")])
    for method in compression.SUFFIXES:
        packer, data = compression.compressor(method), b"abc" * 200_000
        packed = packer.compress(data) + packer.flush()
        reader, parts = compression.Decompressed(method, io.BytesIO(packed), len(data)), []
        while True:
            piece = reader.read(1 << 16)
            if not piece:
                break
            parts.append(piece)
        told.append([method, b"".join(parts) == data])
    return told


def elf_files(golden: str, work: str) -> Any:
    from reconciler.core.build import elf
    from reconciler.core.errors import FormatError

    with open(os.path.join(golden, "elf/program"), "rb") as file:
        data = file.read()
    told = []
    path = os.path.join(work, "program")
    for at in range(len(data) + 1):
        with open(path, "wb") as file:
            file.write(data[:at] + bytes(data[at] ^ 0x41 for at in range(at, min(at + 1, len(data)))) + data[at + 1 :])
        fd = os.open(path, os.O_RDONLY)
        try:
            told.append(repr(elf.read(fd)))
        except FormatError as error:
            told.append(str(error))
        finally:
            os.close(fd)
    return [told[-1], hashlib.sha256("\n".join(told).encode()).hexdigest()]


STEPS: tuple[Callable[[str, str], Any], ...] = (
    nar_round_trip,
    wrong_archives,
    derivations,
    cache_formats,
    store,
    caches,
    garbage,
    upkeep,
    elf_files,
)


def main() -> None:
    source, golden, work = sys.argv[1:]
    sys.path.insert(0, source)
    print(json.dumps({step.__name__: step(golden, work) for step in STEPS}))


if __name__ == "__main__":
    main()
