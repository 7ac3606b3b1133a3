"""Whether the agent should stop: its controller is gone.

The server's reader notes the end of input here; whatever takes long asks between two steps. A step that has begun is
finished, so that nothing is left between two states that could have been avoided.
"""

from __future__ import annotations

from reconciler.core.errors import LinkLostError

_reasons: list[str] = []


def request(reason: str) -> None:
    """Note that the controller is gone. The first reason stands."""
    _reasons.append(reason)


def requested() -> bool:
    return bool(_reasons)


def checkpoint() -> None:
    """To be called between two steps; LinkLostError when the controller is gone."""
    if _reasons:
        raise LinkLostError(_reasons[0])
