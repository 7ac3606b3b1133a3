"""Ways in which a store rots: each changes the tree TREE at `tree`, or what is registered of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[Path], None]


def flip_a_bit(tree: Path) -> None:
    """In place, as a disk does it: size and times stay."""
    with unlocked(tree / "a"), open(tree / "a", "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes((first[0] ^ 1,)))
    os.utime(tree / "a", (1, 1))


def cut_a_file_short(tree: Path) -> None:
    with unlocked(tree / "a"):
        os.truncate(tree / "a", 1)
    os.utime(tree / "a", (1, 1))


def lose_a_file(tree: Path) -> None:
    with unlocked(tree):
        (tree / "a").unlink()


def add_a_file(tree: Path) -> None:
    with unlocked(tree):
        (tree / "new").touch(mode=0o444)


def add_a_directory(tree: Path) -> None:
    with unlocked(tree):
        (tree / "new").mkdir()


def turn_a_link(tree: Path) -> None:
    with unlocked(tree):
        name = next(entry for entry in sorted(tree.iterdir()) if entry.is_symlink())
        name.unlink()
        name.symlink_to("/etc/passwd")


def make_it_a_fifo(tree: Path) -> None:
    with unlocked(tree):
        (tree / "a").unlink()
        os.mkfifo(tree / "a")


def make_it_a_link(tree: Path) -> None:
    lose_it_all(tree)
    with unlocked(tree.parent):
        tree.symlink_to("/etc")


def lose_the_executable_bit(tree: Path) -> None:
    (tree / "run").chmod(0o444)


def lose_it_all(tree: Path) -> None:
    tree.chmod(0o755)  # whoever is not root has to be able to write to what is moved to another directory
    os.rename(tree, tree.parents[2] / "away")


def open_a_file(tree: Path) -> None:
    (tree / "a").chmod(0o644)


def make_a_file_setuid(tree: Path) -> None:
    (tree / "run").chmod(0o4555)


def open_the_directory(tree: Path) -> None:
    tree.chmod(0o755)


def touch_a_file(tree: Path) -> None:
    os.utime(tree / "a", (1, 1_700_000_000))


def touch_a_link(tree: Path) -> None:
    name = next(entry for entry in sorted(tree.iterdir()) if entry.is_symlink())
    os.utime(name, (1, 1_700_000_000), follow_symlinks=False)


def touch_the_directory(tree: Path) -> None:
    os.utime(tree, (1, 1_700_000_000))


def mark_a_file(tree: Path) -> None:
    mark(tree / "a")


def mark(file: Path) -> None:
    """Give a file an attribute that no file of a store has."""
    with unlocked(file):
        os.setxattr(file, "user.note", b"x")


def give_a_file_away(tree: Path) -> None:
    os.chown(tree / "a", 1234, 0)


def give_a_link_away(tree: Path) -> None:
    name = next(entry for entry in sorted(tree.iterdir()) if entry.is_symlink())
    os.chown(name, 1234, 0, follow_symlinks=False)


def give_the_directory_away(tree: Path) -> None:
    os.chown(tree, 1234, 0)


CONTENTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        flip_a_bit,
        cut_a_file_short,
        lose_a_file,
        add_a_file,
        add_a_directory,
        turn_a_link,
        make_it_a_fifo,
        make_it_a_link,
        lose_the_executable_bit,
    )
}
FORM: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        open_a_file,
        make_a_file_setuid,
        open_the_directory,
        touch_a_file,
        touch_a_link,
        touch_the_directory,
        mark_a_file,
    )
}
OWNER: dict[str, Fault] = {
    fault.__name__: fault for fault in (give_a_file_away, give_a_link_away, give_the_directory_away)
}


class unlocked:  # noqa: N801  (used as a function)
    """Lets a file or directory of a store be written to, and puts mode and time back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._status = self._path.stat()
        self._path.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        self._path.chmod(self._status.st_mode & 0o7777)
        os.utime(self._path, ns=(self._status.st_atime_ns, self._status.st_mtime_ns))


def change_database(state_dir: str | os.PathLike[str], *statements: str) -> None:
    """Run statements that no program of a store would, without the checks of foreign keys."""
    connection = sqlite3.connect(Path(state_dir, "db/db.sqlite"))
    try:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    finally:
        connection.close()
