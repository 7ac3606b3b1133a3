"""Colour on top of finished text: everything reads the same without it."""

from __future__ import annotations

import re

_RESET = "\x1b[0m"
_BOLD, _DIM, _RED, _GREEN, _YELLOW = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"

# A state stands in a table's second column, or in capitals after a host's name; elsewhere a word is only a word.
_GOOD = r"ok|confirmed|unchanged|ready"
_MIDDLE = r"behind|new|staged|realised|held|reboot|planned"
_BAD = r"DRIFT|NOT FIT|FAILED|REFUSED|REVERTED|UNREACHABLE|UNKNOWN|failed|refused|reverted|unreachable|unknown"

_RULES = (
    (re.compile(rf"^(\S+ +)({_GOOD})(?= |$)", re.MULTILINE), _GREEN),
    (re.compile(rf"^(\S+ +)({_MIDDLE})(?= |$)", re.MULTILINE), _YELLOW),
    (re.compile(rf"^(\S+ +)({_BAD})(?=[ :]|$)", re.MULTILINE), _RED),
    (re.compile(r"^((?:  \S+)? +)(\+ .*)$", re.MULTILINE), _GREEN),
    (re.compile(r"^((?:  \S+)? +)(- .*)$", re.MULTILINE), _RED),
    (re.compile(r"^((?:  \S+)? +)(~ .*)$", re.MULTILINE), _YELLOW),
    (re.compile(r"^()(host +state .*|host +profile .*|id +when .*)$", re.MULTILINE), _DIM),
    (re.compile(r"^()(Plan: .*)$", re.MULTILINE), _BOLD),
    (re.compile(r"^()(error:)", re.MULTILINE), _RED),
)


def painted(text: str) -> str:
    """`text` with colours for a terminal. The text holds no escapes of its own: `output.visible` saw to that."""
    for pattern, colour in _RULES:
        text = pattern.sub(rf"\g<1>{colour}\g<2>{_RESET}", text)
    return text
