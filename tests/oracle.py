"""Real Nix as the judge of what we write: run against a store below a root of its own, never the machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest


def required() -> bool:
    """Whether a missing oracle is a failure: for root, and in CI, the whole truth is wanted."""
    return os.geteuid() == 0 or os.environ.get("CI") == "true"


def program(name: str) -> str:
    """The path of one of Nix's programs; the test is skipped, or fails where it is `required`, when there is none."""
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is not installed (Debian: nix-bin), and it judges this test"
        if required():
            pytest.fail(missing)
        pytest.skip(missing)
    return found


# Nix looks for roots in what every process of the machine has open, and gives up where one stands in a directory that
# is deeper than a path can be long, as tests of such trees do in another process meanwhile.
_DEEP = b"error: reading symlink: File name too long"
_ATTEMPTS = 6


class RealNix:
    """Nix's programs on the store whose files lie in ROOT/nix/store (`--store ROOT`).

    `sandbox` builds in Nix's own sandbox, which a chroot store needs to run any builder that refers to the store;
    `substitute` allows binary caches (named in `config`, lines of nix.conf). Nothing outside of `root` is written.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, sandbox: bool = False, substitute: bool = False, config: str = ""
    ) -> None:
        self.root = Path(root).resolve()
        home = self.root.with_name(self.root.name + ".home")
        home.mkdir(exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("NIX_", "XDG_"))}
        settings = {"sandbox": sandbox, "substitute": substitute}
        lines = [f"{key} = {str(value).lower()}" for key, value in settings.items()]
        self.environment = {
            **inherited,
            "HOME": str(home),
            "NIX_CONFIG": "\n".join([*lines, "build-poll-interval = 1", config]),
            "LC_ALL": "C.UTF-8",
        }

    def run(
        self, name: str, *arguments: str | os.PathLike[str], check: bool = True, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """`nix-store`, `nix-env`, `nix-instantiate`, … with `--store ROOT` put first; an AssertionError with its
        stderr when it fails, unless `check` is off."""
        command = [program(name), "--store", str(self.root), *(os.fspath(argument) for argument in arguments)]
        for attempt in range(_ATTEMPTS):
            done = subprocess.run(
                command, env=self.environment, input=stdin, capture_output=True, check=False, timeout=300
            )
            if done.returncode == 0 or _DEEP not in done.stderr:
                break
            time.sleep(attempt + 1)
        if check:
            assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stderr.decode()}"
        return done

    def output(self, name: str, *arguments: str | os.PathLike[str]) -> str:
        """What a run prints, without the newline at its end."""
        return self.run(name, *arguments).stdout.decode().rstrip("\n")

    def verify(self) -> None:
        """Every valid path is there with its registered hash, and Nix has nothing to say about any."""
        done = self.run("nix-store", "--verify", "--check-contents", check=False)
        said = done.stderr.decode().splitlines()
        usual = ("reading the Nix store...", "checking path existence...", "checking link hashes...")
        faults = [line for line in said if line not in (*usual, "checking store hashes...")]
        assert done.returncode == 0, f"nix-store --verify ended with {done.returncode}:\n" + "\n".join(said)
        assert not faults, "nix-store --verify found faults:\n" + "\n".join(faults)


def verify(root: str | os.PathLike[str]) -> None:
    """`nix-store --verify --check-contents` of the store below `root`; any complaint is an AssertionError."""
    RealNix(root).verify()
