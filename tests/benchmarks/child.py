"""What the benchmarks time of ours: one operation of core in a process of its own, the interpreter's start included.

`python3 -I -S child.py SOURCE VERB ARGUMENT...` is how an agent starts, too: the standard library alone, nothing read
from the directory or the environment. At its end it says on stderr what it held at most, as `peak <KiB>`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def start() -> None:
    """Only what every other verb does before it begins: the interpreter, and the modules that it needs."""
    from reconciler.core.store import store  # noqa: F401


def dump(path: str) -> None:
    """`nix-store --dump PATH`."""
    from reconciler.core import fs
    from reconciler.core.nix import nar

    for chunk in nar.dump(path):
        fs.write_all(1, chunk)


def restore(path: str) -> None:
    """`nix-store --restore PATH`, the archive on stdin."""
    from reconciler.core.nix import nar

    parent, name = os.path.split(path)
    fd = os.open(parent, os.O_RDONLY)
    nar.restore(_stdin(), fd, name)
    os.close(fd)


def hash_tree(path: str) -> None:
    """`nix-hash --type sha256 PATH`."""
    from reconciler.core.nix import nar

    print(nar.hash_path(path)[0].base16)


def add(root: str, directory: str) -> None:
    """`nix-store --add FILE...` for every file of a directory."""
    from reconciler.core.store.store import Store

    with Store.open(root, create=True) as store, store.batch() as batch:
        for name in sorted(os.listdir(directory)):
            print(batch.add_path(name, f"{directory}/{name}"))


def import_stream(root: str) -> None:
    """`nix-store --import`, the stream on stdin."""
    from reconciler.core.store.exporting import import_paths
    from reconciler.core.store.store import Store

    with Store.open(root, create=True) as store:
        for path in import_paths(store, _stdin()):
            print(path)


def closure(root: str, path: str) -> None:
    """`nix-store -qR PATH`."""
    from reconciler.core.nix.store_path import StorePath
    from reconciler.core.store.store import Store

    with Store.open(root) as store:
        print("\n".join(map(str, store.closure([StorePath.parse(path)]))))


def collect(root: str) -> None:
    """`nix-store --gc`."""
    from reconciler.core.store import gc
    from reconciler.core.store.store import Store

    with Store.open(root) as store:
        print(gc.collect(store, gc.GcOptions()).freed)


def environment(root: str, listing: str) -> None:
    """`nix-env -ir PATH...` without the generation: plan, build and register the environment of these paths."""
    from reconciler.core.build.realise import realise
    from reconciler.core.nix.store_path import StorePath
    from reconciler.core.profile.environment import Element, environment
    from reconciler.core.store.store import Store

    with open(listing, encoding="ascii") as file:
        plan = environment(Element(StorePath.parse(line)) for line in file.read().split())
    with Store.open(root) as store:
        with store.batch() as batch:
            batch.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
            batch.add_derivation(plan.derivation, "user-environment")
        realise(store, [plan.drv_path])
    print(plan.output)


def substitute(root: str, cache: str, key: str, listing: str) -> None:
    """`nix-store --realise PATH...` of paths that a binary cache has."""
    from reconciler.core.nix.signature import PublicKey
    from reconciler.core.nix.store_path import StorePath
    from reconciler.core.store.binary_cache import BinaryCache, Caches
    from reconciler.core.store.store import Store
    from reconciler.core.store.substitute import substitute as fill

    with open(listing, encoding="ascii") as file:
        paths = [StorePath.parse(line) for line in file.read().split()]
    caches = Caches([BinaryCache(cache, [PublicKey.parse(key)])])
    with Store.open(root, create=True) as store:
        fill(store, caches, paths)
    caches.close()
    print("\n".join(map(str, paths)))


class _Stdin:
    def read(self, size: int, /) -> bytes:
        return os.read(0, size)


def _stdin() -> _Stdin:
    return _Stdin()


def instantiate(root: str, project: str, inventory: str, reference: str) -> None:
    """`nix-instantiate FILE -A REFERENCE`, from the recipes of a project. Needs more than the standard library."""
    from pathlib import Path

    from reconciler.core.build.toolchain import host_system
    from reconciler.core.store.store import Store
    from reconciler.packages.instantiate import instantiate
    from reconciler.packages.resolver import Resolver

    resolver = Resolver(Path(project), Path(inventory))
    package = resolver.resolve(reference, host_system())
    with Store.open(root, create=True) as store:
        instantiate(resolver.graph([package]), store)
    print(package.derivation)


def realise(root: str, jobs: str, derivation: str) -> None:
    """`nix-store --realise -jN DERIVATION`."""
    from reconciler.core.build.events import BuildOptions
    from reconciler.core.build.realise import realise
    from reconciler.core.nix.store_path import StorePath
    from reconciler.core.store.store import Store

    with Store.open(root) as store:
        for info in realise(store, [StorePath.parse(derivation)], BuildOptions(jobs=int(jobs))).outputs:
            print(info.path)


VERBS: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (
        *(start, dump, restore, hash_tree, add, import_stream, closure, collect, environment),
        *(instantiate, realise, substitute),
    )
}


def _peak() -> str:
    """In KiB. Not from getrusage, which counts from the fork on, and so the process that started this one."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(line.split()[1] for line in file if line.startswith("VmHWM:"))


def main() -> None:
    source, verb, *arguments = sys.argv[1:]
    sys.path.insert(0, source)
    VERBS[verb](*arguments)
    sys.stderr.write(f"peak {_peak()}\n")


if __name__ == "__main__":
    main()
