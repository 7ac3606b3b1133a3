"""What can keep a controller from a host, or from what it must be there: a class for each cause.

They are named for what happened, as it is told.
"""

# ruff: noqa: N818

from __future__ import annotations

from reconciler.core.errors import ReconcilerError, UnreachableError


class HostKeyError(UnreachableError):
    """A host key that cannot be trusted. Nothing was sent to the host, no user name and no key.

    `names` is what known_hosts would call the host (`web01`, `[10.0.0.1]:2222`), `key_type` and `key` are the key as a
    known_hosts line spells it, `fingerprint` is `SHA256:...`.
    """

    def __init__(self, message: str, hint: str | None, *, name: str, key_type: str, key: str, fingerprint: str) -> None:
        super().__init__(message, hint)
        self.name = name
        self.key_type = key_type
        self.key = key
        self.fingerprint = fingerprint


class HostKeyUnknown(HostKeyError):
    """The host is in no known_hosts file."""


class HostKeyChanged(HostKeyError):
    """known_hosts has another key for the host, or has this one as revoked."""


class LoginRefused(UnreachableError):
    """The host answered and none of our keys opened it."""


class TooManyKeys(LoginRefused):
    """The host hung up because too many keys were tried before the right one."""


class TooBusy(UnreachableError):
    """The host went on dropping the connection before any login (sshd's MaxStartups)."""


class LoginTimeout(UnreachableError):
    """No login within the deadline."""


class NotFit(ReconcilerError):
    """The login worked and the host cannot run the agent as it must."""

    code = "not-fit"


class ElevationError(NotFit):
    """Not root, and no way to become it: sudo asks for a password, or refused one."""


class PythonError(NotFit):
    """No Python there, or one that is too old."""


class NoStrictKeyExchange(UnreachableError):
    """The host's SSH server lets an attacker in the middle drop the first messages after the key exchange."""
