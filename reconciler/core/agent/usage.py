"""Whether anything but us uses /nix: another profile, another root of the collector, Nix itself, a process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from reconciler.core.agent import nix
from reconciler.core.agent.host import NIX_STATE, PROFILES, Host

_OURS = {f"{NIX_STATE}/gcroots/{name}" for name in ("profiles", "current-system", "booted-system")}
_STAGED = f"{NIX_STATE}/gcroots/reconciler/"


def user_of_nix(host: Host, going: set[str]) -> str:
    """Who uses /nix beside what `going` names, the links of profiles that go away; empty when nobody does."""
    return next(_users(host, going), "")


def _users(host: Host, going: set[str]) -> Iterator[str]:
    for path in _links(host, PROFILES):
        if path not in going and not path.endswith(".lock"):
            yield f"{path} is not ours"
    for path in _links(host, f"{NIX_STATE}/gcroots"):
        if path not in _OURS and not path.startswith(_STAGED) and _leads_on(host, path, going):
            yield f"{path} is a root that is not ours"
    for directory, known in (("/nix", ("store", "var", "lost+found")), ("/nix/var", ("nix", "log", "reconciler"))):
        for name in _names(host, directory):
            if name not in known:
                yield f"{directory}/{name} is not ours"
    if nix.in_store(host) or os.path.lexists(host.path(f"{NIX_STATE}/daemon-socket")):
        yield "a Nix of the host's own uses it"
    for path in ("/nix/store", "/nix/var/nix"):
        if os.path.ismount(host.path(path)):
            yield f"{path} is a file system of its own"
    for pid in _processes(host):
        yield f"process {pid} runs from it"


def _links(host: Host, top: str) -> Iterator[str]:
    """Every link and file below a directory, as the host calls them."""
    real = host.path(top)
    for directory, directories, files in os.walk(real):
        links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        for name in sorted([*files, *links]):
            yield os.path.normpath(f"{top}/{os.path.relpath(os.path.join(directory, name), real)}")


def _leads_on(host: Host, path: str, going: set[str]) -> bool:
    """Whether a root keeps something: an indirect one whose link is gone, or goes, does not."""
    try:
        target = os.readlink(host.path(path))
    except OSError:
        return True
    target = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return target not in going and os.path.lexists(host.path(target))


def _names(host: Host, directory: str) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(os.listdir(host.path(directory)))
    return []


def _processes(host: Host) -> Iterator[int]:
    store = host.path("/nix/store") + "/"
    for name in os.listdir("/proc"):
        if name.isdigit() and _runs_from(f"/proc/{name}", store):
            yield int(name)


def _runs_from(process: str, store: str) -> bool:
    for link in ("exe", "cwd", "root"):
        with contextlib.suppress(OSError):
            if os.readlink(f"{process}/{link}").startswith(store):
                return True
    with contextlib.suppress(OSError), open(f"{process}/maps", encoding="utf-8", errors="replace") as maps:
        return any(f" {store}" in line for line in maps)
    return False
