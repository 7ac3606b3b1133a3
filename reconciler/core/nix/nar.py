"""Nix archives: the format (nar_format, where grammar and limits stand) and its way from and to disk (nar_files)."""

from __future__ import annotations

from reconciler.core.nix.nar_files import dump, flat, hash_path, restore
from reconciler.core.nix.nar_format import (
    CHUNK,
    MAX_DEPTH,
    MAX_NAME,
    MAX_TARGET,
    Bounded,
    ChunkReader,
    Directory,
    File,
    Link,
    Node,
    Reader,
    Visitor,
    decode,
    encode,
    parse,
)

__all__ = [
    "CHUNK",
    "MAX_DEPTH",
    "MAX_NAME",
    "MAX_TARGET",
    "Bounded",
    "ChunkReader",
    "Directory",
    "File",
    "Link",
    "Node",
    "Reader",
    "Visitor",
    "decode",
    "dump",
    "encode",
    "flat",
    "hash_path",
    "parse",
    "restore",
]
