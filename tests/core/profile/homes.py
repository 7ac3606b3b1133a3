"""A host's root directory for tests, with accounts of its own in its /etc/passwd."""

from __future__ import annotations

import os
from pathlib import Path

# An ordinary user's tests know one uid only, as a user namespace with a single one does.
ROOT = os.geteuid() == 0
UIDS = {"root": os.getuid(), "alice": 41001 if ROOT else os.getuid(), "bob": 41002 if ROOT else os.getuid()}
GROUP = 41000 if ROOT else os.getgid()


def make_root(root: Path) -> Path:
    """A root directory with the accounts `alice` and `bob`, their homes, and `gone`, who has none."""
    root.mkdir(exist_ok=True)
    os.chmod(root, 0o755)
    (root / "etc").mkdir()
    homes = {"root": "/root", "alice": "/home/alice", "bob": "/home/bob"}
    lines = [f"{name}:x:{UIDS[name]}:{GROUP}:{name}:{home}:/bin/sh" for name, home in homes.items()]
    lines.append(f"gone:x:{UIDS['alice']}:{GROUP}::/home/gone:/bin/sh")
    (root / "etc/passwd").write_text("\n".join(lines) + "\n")
    (root / "etc/group").write_text(f"users:x:{GROUP}:\n")
    (root / "home").mkdir()
    for name, home in homes.items():
        make_owned(root / home.lstrip("/"), name)
    return root


def make_owned(path: Path, user: str, mode: int = 0o755) -> Path:
    path.mkdir()
    own(path, user)
    os.chmod(path, mode)
    return path


def own(path: Path, user: str) -> Path:
    if ROOT:
        os.lchown(path, UIDS[user], GROUP)
    return path


def link(path: Path, target: str, user: str) -> Path:
    path.symlink_to(target)
    return own(path, user)
