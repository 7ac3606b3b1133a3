"""A throw-away machine that real systemd boots: this machine's root under an overlay in memory, in systemd-nspawn.

Only what a boot needs anyway is started (`basic.target`), then a script; its output is what `boot` gives back. Nothing
of it is registered, and its network is its own.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_SERVICE = """\
[Unit]
After=basic.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
StandardOutput=file:/script.out
StandardError=file:/script.out
ExecStart=/bin/sh /script
"""

# $1: what is laid over the machine's root; $2: where the output goes. All mounts end with the namespace.
_BOOT = """
mkdir -p /run/systemd/nspawn
mount -t tmpfs none /run/systemd/nspawn
mount -t tmpfs none "$1/memory"
mkdir "$1/memory/upper" "$1/memory/work" "$1/memory/root"
root=$1/memory/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/memory/upper,workdir=$1/memory/work" "$root"
rm -rf "$root/etc/fstab" "$root/nix"
cp -a "$1/extra/." "$root/"
systemd-nspawn --quiet --register=no --keep-unit --private-network --link-journal=no --console=pipe \\
    --directory="$root" --boot -- --unit=script.service </dev/null >"$2.console" 2>&1
cp "$root/script.out" "$2"
"""


def boot(directory: Path, extra: Path, script: str) -> str:
    """Boot with the tree `extra` laid over the machine's root; what `script` printed. AssertionError with what the
    console said where that did not come to an end."""
    work, out = directory / "booted", directory / "booted.out"
    (work / "memory").mkdir(parents=True)
    (work / "extra").symlink_to(extra)
    (extra / "script").write_text(script)
    service = extra / "etc/systemd/system/script.service"
    service.parent.mkdir(parents=True, exist_ok=True)
    service.write_text(_SERVICE)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", _BOOT, "sh", str(work), str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    console = Path(f"{out}.console")
    said = console.read_text(errors="replace") if console.exists() else ""
    assert out.exists(), f"{done.stderr}\n{said}"
    return out.read_text()
