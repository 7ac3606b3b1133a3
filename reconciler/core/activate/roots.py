"""A host's paths, below whatever root directory the host is looked at through."""

from __future__ import annotations

import os


def under(root: str, path: str) -> str:
    """Where the host's absolute `path` really is."""
    return os.path.join(root, path.lstrip("/"))
