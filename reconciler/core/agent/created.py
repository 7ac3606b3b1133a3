"""What we made on a host that was not there before: `created` among our own files.

    first line     reconciler-created 1
    every other    the absolute path of a directory, or of a user's ~/.nix-profile, in the order of making

`leave` takes these away again, directories where they are empty by then; `/nix` as a whole only where `/nix/store`
stands here. A record that is missing (a host that was managed before there was one) means that nothing is known to be
ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from reconciler.core import fs
from reconciler.core.agent.host import Host
from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import STORE_DIR

_HEADER = "reconciler-created 1"


def read(host: Host) -> tuple[str, ...]:
    """The paths that were made; none without a record. FormatError for another format."""
    try:
        with open(host.created, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            header, *lines = file.read().split("\n")
    except FileNotFoundError:
        return ()
    if header != _HEADER:
        raise FormatError(f"{host.state}/created is of another version: {header[:60]!r}", "use the newer reconciler")
    return tuple(line for line in lines if line.startswith("/"))


def note(host: Host, paths: Iterable[str]) -> None:
    """Write down, before they are made, that these were not there. Durable; nothing for none."""
    wanted = list(paths)
    known = read(host) if wanted else ()
    new = [path for path in wanted if path not in known]
    if new:
        fs.replace_file(host.created, _text([*known, *new]))


def _text(paths: Iterable[str]) -> bytes:
    return "\n".join([_HEADER, *paths, ""]).encode(errors="surrogateescape")


def made_store(host: Host) -> bool:
    """Whether the host's store is ours: a deployment made it."""
    return STORE_DIR in read(host)


def missing_state(host: Host) -> list[str]:
    """Which of Nix's directories and ours are not there."""
    return [path for path in host.state_directories if not os.path.isdir(host.path(path))]


def note_state(host: Host, missing: Iterable[str]) -> None:
    """Before a store is opened that may have to be made: write down what is, given what of `missing_state` was there.
    Once, by whoever is first: a deployment holds the host's lock, and a build for others does not."""
    if not os.path.exists(host.created):
        fs.create_file(host.created, _text(new_state(host, missing)))


def note_store(host: Host) -> None:
    """Before a store is opened for other work than a deployment, a build say: where there is none, the one that is made
    is ours, whenever the first deployment comes."""
    missing = missing_state(host)
    if STORE_DIR in missing:
        fs.ensure_directory(host.own_state)
        note_state(host, missing)


def new_state(host: Host, missing: Iterable[str]) -> tuple[str, ...]:
    """What a first deployment makes, given which of Nix's directories and ours were missing when it began.

    One that was killed before it could write its record has left directories and nothing in them: they are its own.
    """
    found = list(missing)
    if host.state in found or STORE_DIR not in host.state_directories:
        return tuple(found)
    skeleton = {"", "store", "var", "var/nix", "var/reconciler", "var/reconciler/lock"}
    top = host.path("/nix")
    if "/nix" not in found and all(name in skeleton or name.startswith("var/reconciler/.") for name in _below(top)):
        found[:0] = ["/nix", "/nix/store"]
    return tuple(dict.fromkeys(found))


def _below(top: str) -> Iterable[str]:
    for directory, directories, files in os.walk(top):
        below = os.path.relpath(directory, top)
        yield "" if below == "." else below
        for name in [*files, *(one for one in directories if os.path.islink(os.path.join(directory, one)))]:
            yield os.path.normpath(os.path.join(below, name))
