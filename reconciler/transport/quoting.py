"""The one function that quotes for a remote shell."""

from __future__ import annotations

import re
from collections.abc import Iterable

from reconciler.core.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9_@+:,./-]+\Z")


def quote(word: str) -> str:
    """One word, as every login shell reads it back: sh, bash, zsh, csh and fish.

    Inside single quotes csh still sees `!`, fish still sees a backslash, and none of them a quote: these three stand
    outside, behind a backslash. A newline or NUL cannot be said in all of them (UsageError).
    """
    if re.search(r"[\n\r\0]", word):
        raise UsageError(f"{word!r} cannot be passed to a remote shell: it holds a line break or NUL")
    if _PLAIN.match(word):
        return word
    return "'" + re.sub(r"['!\\]", lambda match: f"'\\{match.group()}'", word) + "'"


def command_line(argv: Iterable[str]) -> str:
    """A whole command line."""
    return " ".join(quote(word) for word in argv)
