"""Archives that must be refused; `python -m tests.core.nix.hostile` writes them to tests/golden/hostile/nar.

TABLE there has a line for each file: its name, what `nix-store --restore` of Nix 2.8 and of 2.34 ends with, and what we
say. 2.34 refuses every one, and so do we. 2.8 is not our judge where it accepts one (0), or answers by using up memory
or disk (-: it is not asked).
"""

from __future__ import annotations

from reconciler.core.nix.nar_format import CLOSE, DIRECTORY, ENTRY, EXECUTABLE, MAGIC, NODE, REGULAR, SYMLINK, string
from reconciler.core.values import value
from tests.core.nix.trees import GOLDEN, golden

FOLDER = GOLDEN / "hostile/nar"
TABLE = FOLDER / "TABLE"


@value
class Row:
    """One archive. `nix28`: `1` refused, `0` accepted, `-` never asked. `told`: a part of our message."""

    name: str
    nix28: str
    told: str

    @property
    def data(self) -> bytes:
        return (FOLDER / f"{self.name}.nar").read_bytes()


def rows() -> list[Row]:
    """The table."""
    lines = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    return [Row(name, nix28, told) for name, nix28, _, told in (line.split("\t") for line in lines)]


# --- how they are made ------------------------------------------------------------------------------------------------


def tokens(*words: bytes) -> bytes:
    return b"".join(map(string, words))


def directory_of(*entries: tuple[bytes, bytes]) -> bytes:
    return DIRECTORY + b"".join(ENTRY + string(name) + NODE + node + CLOSE for name, node in entries) + CLOSE


def link(target: bytes) -> bytes:
    return SYMLINK + string(target) + CLOSE


def regular(*words: bytes) -> bytes:
    return tokens(b"(", b"type", b"regular", *words, b")")


def claiming(size: int) -> bytes:
    """A length, and less than that."""
    return size.to_bytes(8, "little") + b"x" * 64


def nested(levels: int, leaf: bytes) -> bytes:
    head = DIRECTORY + ENTRY + string(b"d") + NODE
    return head * levels + leaf + (CLOSE + CLOSE) * levels


FILE = regular(b"contents", b"x")
HELLO = golden("hello")
# Name: (the archive, the column of 2.8, what we say).
CASES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "1", "cut short"),
    "bad-magic": (HELLO.replace(b"nix-archive-1", b"nix-archive-2"), "1", "'nix-archive-1' expected"),
    "name-empty": (MAGIC + directory_of((b"", FILE)), "1", "cannot name an entry"),
    "name-dot": (MAGIC + directory_of((b".", FILE)), "1", "cannot name an entry"),
    "name-dot-dot": (MAGIC + directory_of((b"..", FILE)), "1", "cannot name an entry"),
    "name-with-slash": (MAGIC + directory_of((b"a/b", FILE)), "1", "cannot name an entry"),
    "name-escaping": (MAGIC + directory_of((b"../outside/in", FILE)), "1", "cannot name an entry"),
    "name-absolute": (MAGIC + directory_of((b"/etc", FILE)), "1", "cannot name an entry"),
    "name-with-nul": (MAGIC + directory_of((b"a\0", FILE)), "1", "cannot name an entry"),
    "name-of-256": (MAGIC + directory_of((b"n" * 256, FILE)), "1", "a name of 256 bytes; 255 are allowed"),
    "name-padding": (
        MAGIC + directory_of((b"a", FILE)).replace(b"a" + bytes(7), b"a" + bytes(6) + b"b"), "1", "padding",
    ),
    "name-of-2-40": (MAGIC + DIRECTORY + ENTRY + claiming(1 << 40), "-", "a name of 1099511627776 bytes"),
    "name-of-2-63": (MAGIC + DIRECTORY + ENTRY + claiming(1 << 63), "1", "a name of 9223372036854775808 bytes"),
    "unsorted": (MAGIC + directory_of((b"b", FILE), (b"a", FILE)), "0", "comes after"),
    "unsorted-bytes": (MAGIC + directory_of((b"\xff", FILE), (b"\x7f", FILE)), "0", "comes after"),
    "duplicate-file": (MAGIC + directory_of((b"a", FILE), (b"a", FILE)), "1", "comes after"),
    "duplicate-directory": (
        MAGIC + directory_of((b"a", directory_of((b"x", FILE))), (b"a", directory_of((b"y", FILE)))), "1",
        "comes after",
    ),
    "duplicate-link-then-directory": (
        MAGIC + directory_of((b"a", link(b"../outside")), (b"a", directory_of((b"in", FILE)))), "1", "comes after",
    ),
    "duplicate-link-then-file": (
        MAGIC + directory_of((b"a", link(b"../outside/in")), (b"a", FILE)), "1", "comes after",
    ),
    "z-duplicate-link-then-directory": (
        MAGIC + directory_of((b"a", FILE), (b"z", link(b"../outside")), (b"z", directory_of((b"in", FILE)))), "1",
        "comes after",
    ),
    "executable-after-contents": (MAGIC + regular(b"contents", b"x", b"executable", b""), "0", "')' after a node"),
    "executable-with-a-value": (MAGIC + regular(b"executable", b"1", b"contents", b"x"), "1", "'contents' of a file"),
    "executable-twice": (
        MAGIC + regular(b"executable", b"", b"executable", b"", b"contents", b"x"), "0", "'contents' of a file",
    ),
    "executable-without-contents": (MAGIC + regular(b"executable", b"") + bytes(64), "0", "'contents' of a file"),
    "no-contents": (MAGIC + regular() + bytes(64), "0", "'contents' of a file"),
    "other-than-contents": (MAGIC + regular(b"Contents", b"x"), "1", "'contents' of a file"),
    "contents-twice": (MAGIC + regular(b"contents", b"x", b"contents", b"x"), "0", "')' after a node"),
    "contents-padding": (HELLO.replace(b"hello\n\0\0", b"hello\n\0\1"), "1", "padding"),
    "contents-cut": (HELLO[: HELLO.index(b"hello") + 3], "1", "cut short"),
    "contents-padding-cut": (HELLO[: HELLO.index(b"hello") + 7], "1", "cut short"),
    "contents-of-2-40": (MAGIC + REGULAR + claiming(1 << 40), "-", "cut short"),
    "contents-of-2-63": (MAGIC + REGULAR + claiming(1 << 63), "-", "cut short"),
    "contents-of-2-64-less-1": (MAGIC + REGULAR + claiming((1 << 64) - 1), "-", "cut short"),
    "executable-contents-of-2-63": (MAGIC + EXECUTABLE + claiming(1 << 63), "-", "cut short"),
    "type-twice": (MAGIC + regular(b"type", b"regular", b"contents", b"x"), "1", "'contents' of a file"),
    "type-unknown": (MAGIC + tokens(b"(", b"type", b"fifo", b")") + bytes(64), "1", "a file, a link or a directory"),
    "type-missing": (MAGIC + tokens(b"(", b")") + bytes(64), "0", "a file, a link or a directory"),
    "tag-padding": (HELLO.replace(b"type\0\0\0\0", b"type\0\0\0\1"), "1", "a file, a link or a directory"),
    "tag-of-2-40": (MAGIC + string(b"(") + claiming(1 << 40), "-", "a file, a link or a directory"),
    "target-with-nul": (MAGIC + link(b"a\0b"), "0", "a link target that is empty or holds a NUL"),
    "target-empty": (MAGIC + link(b""), "1", "a link target that is empty or holds a NUL"),
    "target-of-4096": (MAGIC + link(b"t" * 4096), "1", "a link target of 4096 bytes; 4095 are allowed"),
    "target-padding": (MAGIC + link(b"a").replace(b"a" + bytes(7), b"a" + bytes(6) + b"b"), "1", "padding"),
    "target-missing": (
        MAGIC + tokens(b"(", b"type", b"symlink", b")") + bytes(64), "0", "a file, a link or a directory",
    ),
    "target-of-2-63": (MAGIC + SYMLINK + claiming(1 << 63), "1", "a link target of 9223372036854775808 bytes"),
    "entry-without-a-node": (
        MAGIC + DIRECTORY + ENTRY + string(b"a") + CLOSE + CLOSE + bytes(64), "0", "'node' expected",
    ),
    "entry-with-two-nodes": (
        MAGIC + DIRECTORY + ENTRY + string(b"a") + NODE + FILE + FILE + CLOSE + CLOSE, "1", "')' after an entry",
    ),
    "entry-unknown": (MAGIC + DIRECTORY + tokens(b"other") + bytes(64), "1", "an entry or ')' expected"),
    "depth-64-file": (MAGIC + nested(64, FILE), "0", "nested deeper than 63"),
    "depth-64-link": (MAGIC + nested(64, link(b"x")), "0", "nested deeper than 63"),
    "depth-64-directory": (MAGIC + nested(64, directory_of()), "0", "nested deeper than 63"),
}  # fmt: skip


def write() -> None:
    """Write the files and the table."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = ["# archive\tNix 2.8\tNix 2.34\twe say (1: refused, 0: accepted, -: not asked)"]
    for name, (data, nix28, told) in CASES.items():
        (FOLDER / f"{name}.nar").write_bytes(data)
        lines.append(f"{name}\t{nix28}\t1\t{told}")
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write()
