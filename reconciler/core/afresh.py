"""A module of ours in a process of its own, started afresh: what threads and open descriptors we have does not matter
there, as it would after a fork.

The module's code travels marshalled on stdin, since the agent may have no file of it; it imports the standard library
alone. Its `main(spec)` is called.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
from typing import Any

_BOOT = (
    "import marshal, sys\n"
    "stream = sys.stdin.buffer\n"
    "code, spec = marshal.loads(stream.read(int.from_bytes(stream.read(8), 'little')))\n"
    "scope = {'__name__': 'afresh'}\n"
    "exec(code, scope)\n"
    "scope['main'](spec)\n"
)


def command() -> list[str]:
    """What to start; `message` is for its stdin."""
    return [sys.executable or "/proc/self/exe", "-I", "-S", "-B", "-c", _BOOT]


def message(module: str, spec: dict[str, Any]) -> bytes:
    """The code of `module` and what it is called with: values that marshal knows."""
    found = importlib.util.find_spec(module)
    assert found is not None
    code = found.loader.get_code(found.name)  # type: ignore[union-attr]
    assert code is not None
    data = marshal.dumps((code, spec))
    return len(data).to_bytes(8, "little") + data
