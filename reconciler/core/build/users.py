"""Which user a build runs as.

As root, one of the uids that Nix itself sets aside for builds, from the first of these pools that exists in our user
namespace; each uid, with the gid of the same number, is taken by an exclusive flock that Nix takes too:

    872415232 + 65536 N      N < 128     <state>/userpool2/slot-N        Nix's `auto-allocate-uids`
    30001 + N                N < 32      <state>/userpool/<uid>       the usual accounts; where only 65,536 are mapped

A uid that belongs to an account of this machine is left alone. Where neither pool is mapped (an ordinary user, a lab
host of one), there is one uid only: our own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
from collections.abc import Iterator

from reconciler.core.errors import BuildError
from reconciler.core.fs import FileLock, ensure_directory
from reconciler.core.values import value


@value
class BuildUser:
    """The outer uid and gid of one build. `single`: they are our own, the only ones that can be mapped."""

    uid: int
    gid: int
    single: bool


@value
class Pool:
    """Uids for builds: every `step`th from `first`; `directory` and `names` say where each is locked."""

    first: int
    step: int
    size: int
    directory: str
    names: str

    def uid(self, slot: int) -> int:
        return self.first + self.step * slot

    def lock(self, slot: int) -> str:
        return self.names.format(slot=slot, uid=self.uid(slot))


POOLS = (
    Pool(872415232, 65536, 128, "userpool2", "slot-{slot}"),
    Pool(30001, 1, 32, "userpool", "{uid}"),
)


def _maps(path: str, wanted: int) -> bool:
    """Whether an id exists in our user namespace; `path` is a uid_map or gid_map."""
    return any(inner <= wanted < inner + count for inner, _, count in _ranges(path))


@functools.lru_cache(maxsize=2)
def _ranges(path: str) -> list[tuple[int, ...]]:
    """What a map says (inner, outer, count), for as long as we live."""
    with open(path, encoding="ascii") as lines:
        return [tuple(int(field) for field in line.split()) for line in lines]


def pool() -> Pool | None:
    """The uids that builds may use; None where we are not root over any."""
    if os.geteuid() != 0:
        return None
    return next((one for one in POOLS if _has(one)), None)


def _has(one: Pool) -> bool:
    ends = (one.uid(0), one.uid(one.size - 1))
    return all(_maps(f"/proc/self/{kind}_map", wanted) for kind in ("uid", "gid") for wanted in ends)


@contextlib.contextmanager
def build_user(state_dir: str) -> Iterator[BuildUser]:
    """A user for one build, nobody else's until the context ends. BuildError when every one is taken."""
    found = pool()
    if found is None:
        yield BuildUser(os.geteuid(), os.getegid(), single=True)
        return
    directory = os.path.join(state_dir, found.directory)
    ensure_directory(directory)
    for slot in range(found.size):
        lock = FileLock(os.path.join(directory, found.lock(slot)), 0o600)
        if _is_account(found.uid(slot)) or not lock.acquire(exclusive=True, wait=False):
            continue
        try:
            yield BuildUser(found.uid(slot), found.uid(slot), single=False)
        finally:
            lock.release()
        return
    raise BuildError(
        f"all {found.size} build users are taken", hint="wait until other builds on this machine have ended"
    )


def _is_account(uid: int) -> bool:
    try:
        return not pwd.getpwuid(uid).pw_name.startswith("nixbld")
    except KeyError:
        return False
