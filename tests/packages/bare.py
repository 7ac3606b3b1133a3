"""A root that holds only /nix/store with some paths, /proc and /dev: what runs there has all that it needs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store

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
exec env -i "$(command -v chroot)" "$root" "$@"
"""


def run(directory: Path, store: Store, packages: Iterable[StorePath], *command: str) -> str:
    """What `command` prints where there is nothing but the closure of `packages`. Any user may call it."""
    directory.mkdir()
    paths = directory / "paths"
    paths.write_text("".join(f"{store.real(path)} {path}\n" for path in store.closure(packages)))
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespaces = ["unshare", *own, "--mount", "--pid", "--fork", "--propagation", "private"]
    done = subprocess.run(
        [*namespaces, "sh", "-c", _SCRIPT, "sh", str(directory / "root"), str(paths), *command],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
