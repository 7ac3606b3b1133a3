"""Garbage collector roots on disk: links below gcroots/."""

from __future__ import annotations

import contextlib
import hashlib
import os

from reconciler.core import fs
from reconciler.core.nix import base32


def add(link: str, target: str) -> None:
    """Make `link` (below gcroots/) point at the store path `target`, durably."""
    fs.ensure_directory(os.path.dirname(link))
    fs.replace_symlink(target, link)


def remove(link: str) -> bool:
    """Remove a root; whether it was there."""
    try:
        os.unlink(link)
    except FileNotFoundError:
        return False
    with contextlib.suppress(FileNotFoundError):
        fs.fsync_directory(os.path.dirname(link))
    return True


def add_indirect(state_dir: str, link: str) -> str:
    """Make the link `link`, which lies anywhere and points into the store, a root; the root's own path.

    Nix names it by the sha1 of the link's absolute path.
    """
    link = os.path.abspath(link)
    root = _indirect(state_dir, link)
    fs.ensure_directory(os.path.dirname(root))
    fs.replace_symlink(link, root)
    return root


def remove_indirect(state_dir: str, link: str) -> bool:
    """Take such a root away; whether it was there."""
    return remove(_indirect(state_dir, os.path.abspath(link)))


def _indirect(state_dir: str, link: str) -> str:
    # Only a name: a host under FIPS rules has no sha1 for anything else.
    digest = hashlib.sha1(os.fsencode(link), usedforsecurity=False).digest()
    return os.path.join(state_dir, "gcroots", "auto", base32.encode(digest))
