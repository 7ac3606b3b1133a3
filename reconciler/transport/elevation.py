"""Becoming root on a host: sudo, with or without a password."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from reconciler.core.errors import UsageError
from reconciler.transport.errors import ElevationError

_ATTEMPTS = 1


class Elevation:
    """One program's way through sudo.

    The prompt is a nonce, so that nothing else that a host prints can ask for the password; the password is given
    once, on stdin, when the prompt stands on stderr. It is never part of a command line.
    """

    def __init__(self, user: str, method: str, password: str | None, host: str) -> None:
        if method != "sudo":
            raise UsageError(f"become method '{method}' is not supported", "ansible_become_method: sudo")
        self._user = user
        self._host = host
        self._password = password
        self._prompt = f"[reconciler-{secrets.token_hex(16)}]"
        self._given = 0

    def __repr__(self) -> str:
        return f"Elevation(user={self._user!r})"

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """`argv` as root. Messages in English, so that they can be told apart."""
        asking = ["-n"] if self._password is None else ["-S", "-p", self._prompt]
        target = [] if self._user == "root" else ["-u", self._user]
        return ["env", "LC_ALL=C", "sudo", *asking, *target, "--", *argv]

    def answer(self, stderr: str) -> bytes | None:
        """What to write to stdin now, seeing all of stderr up to here; ElevationError when sudo asks again."""
        asked = stderr.count(self._prompt)
        if self._password is None or asked <= self._given:
            return None
        if self._given >= _ATTEMPTS:
            raise ElevationError(
                "sudo refused the password", "is it the password of the login user? Give it again with -K"
            )
        self._given += 1
        return self._password.encode() + b"\n"

    def visible(self, stderr: str) -> str:
        """stderr without the prompt."""
        return stderr.replace(self._prompt, "")

    def explain(self, stderr: str) -> ElevationError | None:
        """Why sudo did not start the program, when that is what stderr says."""
        # `reconciler sudoers` will print the least of these some day; until then the line itself helps.
        sudoers = f"on {self._host}, in /etc/sudoers.d/reconciler: USER ALL=(root) NOPASSWD: ALL"
        causes = (
            ("a password is required", "sudo asks for a password", f"add -K, or {sudoers}"),
            ("incorrect password attempt", "sudo refused the password", "give it again with -K"),
            ("must have a tty", "sudo asks for a terminal (requiretty)", "in its sudoers: Defaults:USER !requiretty"),
            ("is not in the sudoers file", "the login user may not use sudo", sudoers),
            ("is not allowed to execute", "the login user may not run the agent by sudo", sudoers),
            ("may not run sudo", "the login user may not use sudo", sudoers),
            ("sudo: no new privileges", "sudo cannot gain privileges here (no_new_privs)", None),
            (
                "'sudo': No such file",
                "there is no sudo, and the login user is not root",
                "log in as root, or install sudo",
            ),
            (
                "sudo: No such file",
                "there is no sudo, and the login user is not root",
                "log in as root, or install sudo",
            ),
            ("unknown user", f"there is no user '{self._user}' to become", "ansible_become_user"),
        )
        for sign, message, hint in causes:
            if sign in stderr:
                return ElevationError(message, hint)
        return None
