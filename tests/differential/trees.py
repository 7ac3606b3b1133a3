"""Random trees, as `nar.Node` values and as files with what an archive does not keep: modes, times, hard links."""

from __future__ import annotations

import os
import random

from reconciler.core.nix import nar

# What other programs trip over: spaces and controls, wrong UTF-8, shell words, macOS's case hack, what sorts oddly.
_ODD = [
    "a b", "a\nb", "\t", "-rf", "--", "~", "ä", "日本", "e\u0301", "\u00e9", "\udcff", "\udcc3", "a\udc80",
    "~nix~case~hack~1", "a~nix~case~hack~2", "A", "a", "a-", "a.", "a0", "a!", "...", "..a", ".a", "$(id)", "'", '"',
    "\\", "*", "\x7f", "\x01",
]  # fmt: skip
_SIZES = (0, 0, 1, 7, 8, 9, 15, 16, 100, 4095, 4096, 4097)
_FILE_MODES = (0o644, 0o600, 0o444, 0o755, 0o700, 0o500, 0o654, 0o4755, 0o2744, 0o666, 0o555)
_DIRECTORY_MODES = (0o755, 0o700, 0o711, 0o1777, 0o2755, 0o555)


def random_tree(chance: random.Random, depth: int = 0) -> nar.Node:
    """A file, a link or a directory of a few of them."""
    kind = chance.random()
    if depth < 4 and kind < (0.75 if depth == 0 else 0.3):
        count = chance.choice((0, 1, 2, 3, 5, 8))
        return nar.Directory({_name(chance): random_tree(chance, depth + 1) for _ in range(count)})
    if kind > 0.85:
        return nar.Link(_target(chance))
    return nar.File(_contents(chance), chance.random() < 0.3)


def _name(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.4:
        return chance.choice(_ODD)
    if kind < 0.45:
        return os.fsdecode(_bytes(chance, 255))
    return os.fsdecode(_bytes(chance, chance.randint(1, 12)))


def _bytes(chance: random.Random, length: int) -> bytes:
    """Bytes that may name an entry."""
    data = bytes(chance.choice((*range(1, 47), *range(48, 256))) for _ in range(length))
    return b"x" + data[1:] if data in (b".", b"..") else data


def _target(chance: random.Random) -> str:
    targets = (
        "a",
        "..",
        "/",
        "/nonexistent",
        "/nix/store",
        "././/x",
        " ",
        "\udcff\n",
        "t" * chance.choice((1, 255, 4000)),
    )
    return chance.choice(targets)


def _contents(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice(_SIZES) if chance.random() < 0.95 else chance.randrange(300_000))


def write_tree(chance: random.Random, node: nar.Node, path: bytes) -> None:
    """The tree as files whose modes, times and links to one another are as they come."""
    written: dict[tuple[bytes, bool], bytes] = {}
    _write(chance, node, path, written)


def _write(chance: random.Random, node: nar.Node, path: bytes, written: dict[tuple[bytes, bool], bytes]) -> None:
    if isinstance(node, nar.Link):
        os.symlink(os.fsencode(node.target), path)
        return
    if isinstance(node, nar.Directory):
        os.mkdir(path)
        for name in chance.sample(sorted(node.entries), len(node.entries)):
            _write(chance, node.entries[name], path + b"/" + os.fsencode(name), written)
        os.chmod(path, chance.choice(_DIRECTORY_MODES))
    else:
        same = written.get((node.contents, node.executable))
        if same is not None and chance.random() < 0.5:
            os.link(same, path)
            return
        with open(path, "wb") as file:
            file.write(node.contents)
        os.chmod(path, chance.choice([mode for mode in _FILE_MODES if bool(mode & 0o100) == node.executable]))
        written[node.contents, node.executable] = path
    os.utime(path, (chance.randrange(2**31), chance.randrange(2**31)))
