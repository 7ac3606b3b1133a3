"""The host toolchain: the distribution's own shell, compiler and libraries, told apart by a hash.

    host-<sha256, base-16, of the facts below, its first 32 digits>

    the whole of /etc/os-release (else /usr/lib/os-release)
    the first line of `ldd --version`            which names the C library and the distribution's build of it
    the first line of `cc --version`, of `c++ --version`, of `ld --version`      "none" where there is none

It stands in the environment of every derivation that says `toolchain: host`, so that another toolchain gives another
store path, and a builder refuses a derivation that was made for another toolchain than its own.

A pinned toolchain is a store path instead, one of the derivation's inputs: the tree that the build sees as /usr.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from collections.abc import Iterable

from reconciler.core.errors import BuildError, FormatError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import STORE_DIR, StorePath
from reconciler.core.nix.systems import system_of

VARIABLE = "toolchain"
SHELL_VARIABLE = "toolchainShell"  # beside a pinned toolchain: the store path of the shell for what is installed
_PREFIX = "host-"
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_PROGRAMS = ("ldd", "cc", "c++", "ld")
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


@functools.lru_cache(maxsize=1)
def host_toolchain() -> str:
    """This host's value of the `toolchain` variable."""
    versions = zip(_PROGRAMS, _versions(_PROGRAMS))
    facts = [_os_release(), *(f"{program}: {version}\n" for program, version in versions)]
    return _PREFIX + hashlib.sha256("".join(facts).encode(errors="surrogateescape")).hexdigest()[:32]


def host_system() -> str:
    """Nix's word for this machine's architecture, `x86_64-linux`."""
    return system_of(os.uname().machine)


def names_host_toolchain(derivation: Derivation) -> bool:
    """Whether a derivation is for the host toolchain, of whatever host."""
    return derivation.environment.get(VARIABLE, "").startswith(_PREFIX)


def wants_host_toolchain(derivation: Derivation) -> bool:
    """The same. BuildError when it is for another than this host's."""
    if not names_host_toolchain(derivation):
        return False
    if derivation.system != host_system():
        # The variable does not tell: compilers of one release say the same of themselves on every system.
        raise BuildError(
            f"it is for {derivation.system} with `toolchain: host`, and this host, which runs such programs, compiles "
            f"for {host_system()}",
            hint=f"a pinned toolchain (`toolchain: debian-12`), or a builder that is {derivation.system} itself",
        )
    value = derivation.environment[VARIABLE]
    if value != host_toolchain():
        raise BuildError(
            f"it is to be built with the toolchain {value}, and this host has {host_toolchain()}",
            hint="`toolchain: host` ties a package to hosts of one distribution and compiler: build it on such a host",
        )
    return True


def pinned_toolchain(derivation: Derivation) -> StorePath | None:
    """The tree that the build of `derivation` sees as /usr; None where no toolchain is pinned.

    BuildError when it is not one of the derivation's own inputs.
    """
    value = derivation.environment.get(VARIABLE, "")
    if not value.startswith(STORE_DIR + "/"):
        return None
    try:
        path = StorePath.parse(value)
    except FormatError as error:
        raise BuildError(f"its toolchain is no store path: {error.message}") from None
    if path not in derivation.input_sources:
        raise BuildError(f"its toolchain {path} is not among its inputs", hint="name it in `inputSrcs`")
    return path


def _os_release() -> str:
    for path in _OS_RELEASE:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            continue
    return "none\n"


def _versions(programs: Iterable[str]) -> list[str]:
    """What each says of itself. All are asked at once: a build waits for this."""
    return [_first_line(running) for running in [_asked(program) for program in programs]]


def _asked(program: str) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except OSError:
        return None


def _first_line(running: subprocess.Popen[bytes] | None) -> str:
    if running is None:
        return "none"
    said, _ = running.communicate()
    lines = said.decode(errors="surrogateescape").splitlines()
    return lines[0] if lines and running.returncode == 0 else "none"
