"""The trees whose archives, as `nix-store --dump` writes them, lie in tests/golden/nar; and how to write them."""

from __future__ import annotations

from pathlib import Path

from reconciler.core.nix import nar

GOLDEN = Path(__file__).parents[2] / "golden"

HELLO = nar.File(b"hello\n")
LINK = nar.Link("../nowhere")
TREE = nar.Directory(
    {
        "a": HELLO,
        "empty": nar.File(b""),
        "run": nar.File(b"#!/bin/sh\n", executable=True),
        "link": LINK,
        "sub": nar.Directory(
            {
                "eight": nar.File(b"12345678"),
                "ä ö": nar.File(b"x"),
                "a-b": nar.File(b"y"),
                "a": nar.File(b"z"),
                "ab": nar.Directory({"bytes": nar.File(b"\0\xff")}),
                "empty": nar.Directory({}),
            }
        ),
    }
)
TREES: dict[str, nar.Node] = {"hello": HELLO, "link": LINK, "tree": TREE}


def golden(name: str) -> bytes:
    """The archive of TREES[name]."""
    return (GOLDEN / "nar" / f"{name}.nar").read_bytes()


def write(node: nar.Node, path: Path) -> None:
    """The tree as ordinary files, not as a store has them."""
    if isinstance(node, nar.File):
        path.write_bytes(node.contents)
        path.chmod(0o755 if node.executable else 0o644)
    elif isinstance(node, nar.Link):
        path.symlink_to(node.target)
    else:
        path.mkdir()
        for name, child in node.entries.items():
            write(child, path / name)
