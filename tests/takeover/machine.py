"""A machine's /nix: real Nix sees it as its own, in a mount namespace; we see it below a root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from reconciler.core.build.sandbox import TOOLCHAIN_PATHS
from reconciler.core.store.dump import dump_db
from reconciler.core.store.store import Store
from reconciler.core.store.verify import verify
from tests.oracle import RealNix, program

_INSIDE = 'mount --bind "$1/nix" /nix; shift; exec "$@"'


class Machine:
    """`root` holds the machine's /nix. Paths elsewhere (`home`, links beside them) are the same for both sides."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "machine"
        self.home = directory / "home"
        (self.root / "nix").mkdir(parents=True)
        self.home.mkdir()
        toolchain = " ".join(path for path in TOOLCHAIN_PATHS if Path(path).exists())
        config = ("substitute = false", "build-users-group =", "sandbox = true", f"sandbox-paths = {toolchain}")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("NIX_", "XDG_"))}
        self._environment = {
            **inherited,
            "HOME": str(self.home),
            "NIX_CONF_DIR": str(directory / "none"),
            "NIX_REMOTE": "local",
            "NIX_CONFIG": "\n".join(config),
            "LC_ALL": "C.UTF-8",
        }

    def profile(self, name: str) -> str:
        """The link of a profile as we see it; `/nix/var/nix/profiles/NAME` to those inside."""
        return str(self.root / "nix/var/nix/profiles" / name)

    def nix(self, name: str, *arguments: object, stdin: bytes | None = None) -> str:
        """What one of real Nix's programs prints; an AssertionError with what it says when it fails."""
        # With /proc of its own: a collection asks every process that it sees what it has open.
        alone = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
        command = [*alone, "sh", "-euc", _INSIDE, "sh", str(self.root), program(name)]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            env=self._environment,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=120,
            cwd=self.home,
        )
        assert done.returncode == 0, f"{name} {arguments}: {done.stderr.decode()}"
        return done.stdout.decode().rstrip("\n")

    def store(self) -> Store:
        return Store.open(str(self.root))

    def agree(self, *garbage: str) -> None:
        """Neither side finds anything wrong, and both say the same of every path. `garbage`: what else lies there."""
        oracle = RealNix(self.root)
        oracle.verify()
        with self.store() as store:
            found = [(finding.kind, finding.path) for finding in verify(store).findings]
            assert found == [("unregistered", f"/nix/store/{name}") for name in garbage]
            assert b"".join(dump_db(store)) == oracle.run("nix-store", "--dump-db").stdout
