"""A root that holds only /nix/store with some paths, /proc and /dev: what runs there has all that it needs."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterable
from pathlib import Path

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SCRIPT = """set -eu
root=$1 paths=$2
shift 2
mkdir -p $root/nix/store $root/proc $root/dev
while read -r real path; do
    if [ -d "$real" ]; then mkdir "$root$path"; else : > "$root$path"; fi
    mount --bind "$real" "$root$path"
done < "$paths"
mount -t proc proc $root/proc
mount --rbind /dev $root/dev
chroot=$(command -v chroot)
exec env -i "TERM=${TERM-dumb}" "$chroot" "$root" "$@"
"""


def run(directory: Path, store: Store, packages: Iterable[StorePath], *command: str, term: str = "dumb") -> str:
    """What `command` prints where there is nothing but the closure of `packages`. Any user may call it."""
    done = subprocess.run(
        _inside(directory, store, packages, command),
        env={"PATH": _PATH, "TERM": term},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_terminal(
    directory: Path, store: Store, packages: Iterable[StorePath], *command: str, term: str, typed: str
) -> str:
    """The same on a terminal of the type `term`, where somebody types `typed`: what it shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        _inside(directory, store, packages, command),
        env={"PATH": _PATH, "TERM": term},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as running:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b"".join(iter(lambda: _read(ours), b""))
        assert running.wait(60) == 0, shown
    os.close(ours)
    return shown.decode()


def _read(terminal: int) -> bytes:
    """What is shown next; nothing when nobody has the terminal any more, which the kernel tells by EIO."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def _inside(directory: Path, store: Store, packages: Iterable[StorePath], command: Iterable[str]) -> list[str]:
    directory.mkdir()
    paths = directory / "paths"
    paths.write_text("".join(f"{store.real(path)} {path}\n" for path in store.closure(packages)))
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespaces = ["unshare", *own, "--mount", "--pid", "--fork", "--propagation", "private"]
    return [*namespaces, "sh", "-c", _SCRIPT, "sh", str(directory / "root"), str(paths), *command]
