"""What the store's benchmarks work on: always the same bytes, whatever the machine."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store


def tree(top: Path, files: int, size: int) -> Path:
    """`files` files of `size` bytes together in directories of twenty: many small, a few large, as packages are."""
    chance = random.Random(files)
    weights = [chance.lognormvariate(0, 1.5) for _ in range(files)]
    scale = size / sum(weights)
    for number, weight in enumerate(weights):
        folder = top / f"part{number // 400:02}" / f"{number // 20:04}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"file{number:05}"
        file.write_bytes(chance.randbytes(int(weight * scale)))
        file.chmod(0o755 if number % 10 == 0 else 0o644)
        if number % 20 == 0:
            (folder / "link").symlink_to(file.name)
    return top


def large_file(top: Path, size: int) -> Path:
    chance = random.Random(size)
    with top.open("wb") as file:
        for _ in range(size // 10**6):
            file.write(chance.randbytes(10**6))
    return top


def small_files(top: Path, files: int) -> Path:
    top.mkdir()
    for number in range(files):
        (top / f"small-{number:05}").write_text(f"the contents of the small file {number}\n")
    return top


def graph(root: Path, paths: int) -> StorePath:
    """A store of `paths` texts of which each refers to up to eight earlier ones; the last one, which reaches all."""
    chance = random.Random(paths)
    with Store.open(str(root), create=True) as store, store.batch() as batch:
        made: list[StorePath] = []
        unreached: list[StorePath] = []
        for number in range(paths - 1):
            references = set(chance.sample(made, min(len(made), chance.randrange(8))))
            if number > 8:
                references.add(unreached.pop(0))
            text = "\n".join(map(str, sorted(references))).encode() + b"%d" % number
            made.append(batch.add_text(f"node-{number:05}", text, sorted(references)))
            unreached = [path for path in unreached if path not in references] + [made[-1]]
        return batch.add_text("top", b"top", unreached)


def packages(root: Path, count: int) -> list[StorePath]:
    """A store of `count` packages that share the directories that packages share."""
    made = []
    with Store.open(str(root), create=True) as store, store.batch() as batch:
        for number in range(count):
            name = f"tool{number:03}"
            manual = {f"{name}{part}.1": nar.File(b"m") for part in ("", "-run", "-list")}
            content = nar.Directory(
                {
                    "bin": nar.Directory({f"{name}{part}": nar.File(b"x", True) for part in ("", "-run", "-list")}),
                    "lib": nar.Directory(
                        {f"lib{name}.so": nar.Link(f"lib{name}.so.1"), f"lib{name}.so.1": nar.File(b"s")}
                    ),
                    "share": nar.Directory(
                        {
                            "doc": nar.Directory({name: nar.Directory({"README": nar.File(name.encode())})}),
                            "man": nar.Directory({"man1": nar.Directory(manual)}),
                            "locale": nar.Directory(
                                {
                                    tongue: nar.Directory(
                                        {"LC_MESSAGES": nar.Directory({f"{name}.mo": nar.File(b"t")})}
                                    )
                                    for tongue in ("de", "fr", "ja")
                                }
                            ),
                        }
                    ),
                }
            )
            made.append(batch.add_tree(f"{name}-1.{number}", content))
    return sorted(made, key=lambda path: (path.name, str(path)))


@contextlib.contextmanager
def disk(scratch: Path, size: int = 24 * 2**30) -> Iterator[Path]:
    """A file system of its own (ext4 in a sparse file) that is empty. On one from which files were removed a minute
    ago, ext4 makes new ones ten times more slowly, so that each run would pay for the one before it."""
    image, mounted = scratch / "disk", scratch / "mounted"
    with image.open("wb") as file:
        file.truncate(size)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)
        image.unlink()
        mounted.rmdir()


def fresh(work: Path, name: str) -> Callable[[], Path]:
    """Each time another path that does not exist; what was written before is on the disk. Nothing is removed."""
    numbers = count()

    def path() -> Path:
        os.sync()
        return work / f"{name}{next(numbers)}"

    return path


def copies(store: Path) -> Callable[[], Path]:
    """Each time another copy of a store, for a run to use up."""
    target = fresh(store.parent, f"{store.name}-")

    def copy() -> Path:
        made = target()
        subprocess.run(["cp", "-a", store, made], check=True)
        os.sync()
        return made

    return copy
