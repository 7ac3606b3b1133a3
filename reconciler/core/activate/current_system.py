"""Which system profile runs: /run/current-system, and what roots it.

    /run/current-system                         -> the toplevel's store path; volatile
    /run/booted-system                          whoever boots the host makes it; untouched here
    /nix/var/nix/gcroots/current-system         -> /run/current-system
    /etc/tmpfiles.d/reconciler.conf             makes /run/current-system at boot: -> /nix/var/nix/profiles/system

After a boot the link leads through the profile. It is pinned to the store path before the profile is switched, so that
what runs changes only when it is told to. `root` is where the host's root directory is.
"""

from __future__ import annotations

import contextlib
import os

from reconciler.core import fs
from reconciler.core.activate import nixos
from reconciler.core.activate.roots import under
from reconciler.core.errors import RefusedError, StoreError
from reconciler.core.nix.store_path import STORE_DIR, StorePath
from reconciler.core.profile.toplevel import INTERFACE, interface_version, is_nixos

CURRENT = "/run/current-system"
BOOTED = "/run/booted-system"
GC_ROOTS = "/nix/var/nix/gcroots"
_LINK_LIMIT = 10


def running(root: str = "/") -> str:
    """The store path that /run/current-system leads to; empty when it leads to none."""
    return _store_path_behind(CURRENT, root)


def booted(root: str = "/") -> str:
    """The store path that /run/booted-system leads to; empty when it leads to none."""
    return _store_path_behind(BOOTED, root)


def _store_path_behind(path: str, root: str) -> str:
    for _ in range(_LINK_LIMIT):
        try:
            target = os.readlink(under(root, path))
        except OSError:
            return ""
        path = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if path.startswith(STORE_DIR + "/"):
            return path
    return ""


def check(toplevel: StorePath, root: str = "/", foreign: bool = False) -> None:
    """RefusedError when this host cannot put the system profile `toplevel` (in its store already) to work. `foreign`:
    it was here before, whoever made it, and need not be ours."""
    real = under(root, str(toplevel))
    if nixos.is_host(root):
        nixos.check(toplevel, root)
        return
    if is_nixos(real):
        raise RefusedError(f"{toplevel} is a NixOS system, and this host does not run NixOS")
    version = interface_version(real)
    if version is None:
        if foreign:
            return
        raise RefusedError(f"{toplevel} is not a system profile of ours")
    if version > INTERFACE:
        raise RefusedError(
            f"{toplevel} has interface version {version}; this agent knows versions up to {INTERFACE}",
            "deploy with the newer reconciler that made it",
        )


def is_ours(toplevel: str, root: str = "/") -> bool:
    """Whether the system profile at this store path is one that we put to work; one that was adopted once is not."""
    return interface_version(under(root, toplevel)) is not None


def raw_target(root: str = "/") -> str | None:
    """The text of /run/current-system's link, for putting it back; None when there is none."""
    try:
        return os.readlink(under(root, CURRENT))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{CURRENT} is not a link", "move it away, then deploy again") from error


def activate(toplevel: str, root: str = "/") -> None:
    """Make `toplevel` what runs, and a root of the garbage collector while it does."""
    point_at(toplevel, root)
    for name, path in (("current-system", CURRENT), ("booted-system", BOOTED)):
        link = under(root, f"{GC_ROOTS}/{name}")
        if not os.path.lexists(link):
            fs.ensure_directory(os.path.dirname(link))
            fs.replace_symlink(path, link)


def point_at(target: str, root: str = "/") -> None:
    """Make /run/current-system a link to exactly `target`."""
    raw_target(root)
    fs.ensure_directory(under(root, os.path.dirname(CURRENT)))
    fs.replace_symlink(target, under(root, CURRENT), durable=False)  # a tmpfs


def pin(root: str = "/") -> None:
    """Where /run/current-system leads through the profile, make it lead to the store path that this is now."""
    path = running(root)
    if path and raw_target(root) != path:
        activate(path, root)


def forget_roots(root: str = "/") -> None:
    """Take away the collector's roots of systems that are not there any more."""
    for name, path in (("current-system", CURRENT), ("booted-system", BOOTED)):
        link = under(root, f"{GC_ROOTS}/{name}")
        with contextlib.suppress(OSError):
            if os.readlink(link) == path and not os.path.lexists(under(root, path)):
                os.unlink(link)
                fs.fsync_directory(os.path.dirname(link))


def deactivate(root: str = "/") -> None:
    """Nothing of ours runs: take /run/current-system and its root away."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(under(root, CURRENT))
    link = under(root, f"{GC_ROOTS}/current-system")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)
        fs.fsync_directory(os.path.dirname(link))
