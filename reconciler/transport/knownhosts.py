"""known_hosts files as OpenSSH reads them (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), and the judgement over a host's key.

    line    := [marker] names type key [comment]      marker: @revoked, @cert-authority
    names   := name {"," name}                        a name may be negated (!), hold * and ?, or be hashed
    hashed  := "|1|" salt "|" HMAC-SHA1(salt, name)   both in base 64
    name    := host, or "[" host "]:" port for any port but 22

A key that is not known is never accepted, whatever StrictHostKeyChecking says: an agent that is about to run as root
deserves a known host.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import UsageError
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.errors import HostKeyChanged, HostKeyUnknown

if TYPE_CHECKING:
    from reconciler.transport.connection import ConnectOptions

DEFAULT_PORT = 22
_MAX_FILE = 64 * 1024 * 1024


@dataclass(frozen=True)
class HostKey:
    """A host's public key: `type` and `data` (base 64) as in a known_hosts line."""

    type: str
    data: str

    @property
    def fingerprint(self) -> str:
        """SHA256:..., as ssh-keygen -l prints it."""
        digest = hashlib.sha256(base64.b64decode(self.data)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True)
class Entry:
    """One line. `marker` is empty, `revoked` or `cert-authority`."""

    marker: str
    names: tuple[str, ...]
    key: HostKey
    place: str

    def matches(self, name: str) -> bool:
        found = False
        for pattern in self.names:
            if pattern.startswith("|1|"):
                found = found or _hash_matches(pattern, name)
            elif pattern.startswith("!"):
                if _glob(pattern[1:], name):
                    return False
            elif _glob(pattern, name):
                found = True
        return found


@dataclass(frozen=True)
class Names:
    """What known_hosts calls a host: `name` first; `plain`, without the port, where that is another."""

    name: str
    plain: str | None = None

    @classmethod
    def of(cls, host: str, port: int, alias: str | None = None) -> Names:
        if alias:
            return cls(alias.lower())
        host = host.lower()
        return cls(host) if port == DEFAULT_PORT else cls(f"[{host}]:{port}", host)


class KnownHosts:
    """The lines of several files, those of the user first."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)

    def types(self, names: Names) -> tuple[str, ...]:
        """The key types that are known of a host: what it should be asked for first."""
        known = self._of(names.name) or (self._of(names.plain) if names.plain else [])
        return tuple(dict.fromkeys(entry.key.type for entry in known if not entry.marker))

    def check(self, names: Names, key: HostKey, host: str) -> None:
        """Accept a key, or raise HostKeyUnknown or HostKeyChanged. `host` is what `reconciler trust` would be told."""
        entries = self._of(names.name)
        revoked = [entry for entry in self._entries if entry.marker == "revoked" and entry.key == key]
        for entry in revoked:
            if entry.matches(names.name) or (names.plain and entry.matches(names.plain)):
                raise _changed(f"host key revoked: {_show(key)} ({entry.place})", names, key, host)
        known = [entry for entry in entries if not entry.marker]
        if any(entry.key == key for entry in known):
            return
        if known:
            listed = ", ".join(f"{_show(entry.key)} ({entry.place})" for entry in known)
            raise _changed(f"host key changed: the host shows {_show(key)}, known is {listed}", names, key, host)
        if names.plain and any(entry.key == key and not entry.marker for entry in self._of(names.plain)):
            return
        note = ""
        if any(entry.marker == "cert-authority" for entry in entries):
            note = "; it is known by a certificate authority only, which is not supported"
        raise HostKeyUnknown(
            f"host key unknown: {_show(key)}{note}",
            f"reconciler trust {host}",
            name=names.name,
            key_type=key.type,
            key=key.data,
            fingerprint=key.fingerprint,
        )

    def _of(self, name: str) -> list[Entry]:
        return [entry for entry in self._entries if entry.matches(name)]


def _changed(message: str, names: Names, key: HostKey, host: str) -> HostKeyChanged:
    return HostKeyChanged(
        message,
        f"find out why before anything else; if the host was installed anew: reconciler trust --replace {host}",
        name=names.name,
        key_type=key.type,
        key=key.data,
        fingerprint=key.fingerprint,
    )


def _show(key: HostKey) -> str:
    return f"{key.type} {key.fingerprint}"


def load(paths: Sequence[str]) -> KnownHosts:
    """Read files; one that is not there has no lines. Lines that are not understood are passed over, as ssh does."""
    entries: list[Entry] = []
    for path in paths:
        entries += _file(path)
    return KnownHosts(entries)


_files: dict[str, tuple[tuple[int, int, int], tuple[Entry, ...]]] = {}


def _file(path: str) -> tuple[Entry, ...]:
    """A file's entries, read again only when it has changed: a fleet asks once for each host."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            cached = _files.get(path)
            if cached is not None and cached[0] == stamp:
                return cached[1]
            text = file.read(_MAX_FILE).decode(errors="replace")
    except OSError:
        return ()
    found = tuple(
        entry
        for number, line in enumerate(text.splitlines(), start=1)
        if (entry := parse_line(line, f"{path}:{number}")) is not None
    )
    _files[path] = (stamp, found)
    return found


def parse_line(line: str, place: str) -> Entry | None:
    """One line; None for a comment, an empty line, and one that is not understood."""
    fields = line.split()
    marker = ""
    if fields and fields[0].startswith("@"):
        marker = fields.pop(0)[1:]
        if marker not in ("revoked", "cert-authority"):
            return None
    if len(fields) < 3 or fields[0].startswith("#"):
        return None
    try:
        base64.b64decode(fields[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    names = tuple(name if name.startswith("|") else name.lower() for name in fields[0].split(",") if name)
    return Entry(marker, names, HostKey(fields[1], fields[2]), place)


def _glob(pattern: str, name: str) -> bool:
    # fnmatch knows brackets, which stand for themselves here: [host]:port.
    return fnmatch.fnmatchcase(name, re.sub(r"\[", "[[]", pattern))


def _hash_matches(hashed: str, name: str) -> bool:
    parts = hashed.split("|")
    if len(parts) != 4:
        return False
    try:
        salt, digest = base64.b64decode(parts[2], validate=True), base64.b64decode(parts[3], validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


def scan(settings: ConnectionSettings, options: ConnectOptions | None = None) -> tuple[Names, HostKey, str]:
    """The key that a host shows, the name that known_hosts has for it, and the file to enrol it in.

    Only the key exchange is needed for it; when the key is known already, a login is tried too. UnreachableError when
    the host, or a jump host before it, cannot be reached or is not trusted itself.
    """
    from reconciler.transport.connection import ConnectOptions
    from reconciler.transport.ssh import scan as scan_ssh

    return scan_ssh(settings, options or ConnectOptions())


def enrol(path: str, names: Names, key: HostKey) -> None:
    """Write a host's key into a known_hosts file, instead of whatever the file had for that name. Durable."""
    if re.search(r"[\s,!*?|#@]", names.name) or not re.fullmatch(r"[a-z0-9@.-]+", key.type):
        raise UsageError(f"'{names.name}' cannot be written into known_hosts")
    path = os.path.realpath(os.path.expanduser(path))
    fs.ensure_directory(os.path.dirname(path), 0o700)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        lines = []
    kept = [left for line in lines if (left := _without(line, names.name)) is not None]
    text = "\n".join([*kept, f"{names.name} {key.type} {key.data}"]) + "\n"
    fs.replace_file(path, text.encode(errors="surrogateescape"), 0o600)


def _without(line: str, name: str) -> str | None:
    """The line without this host; None when nothing is left of it."""
    entry = parse_line(line, "")
    if entry is None or entry.marker or not entry.matches(name):
        return line
    others = [other for other in entry.names if Entry("", (other,), entry.key, "").matches(name) is False]
    if len(others) == len(entry.names):
        return line
    # A pattern that means other hosts too stays: what was written for them is not ours to take away.
    if any(re.search(r"[*?!]", other) for other in entry.names):
        return line
    return " ".join([",".join(others), entry.key.type, entry.key.data]) if others else None
