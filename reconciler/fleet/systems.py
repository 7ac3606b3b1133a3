"""Whether a host is of the system that the inventory says: its packages are made for that one, and run on no other."""

from __future__ import annotations

from reconciler.core.errors import ReconcilerError
from reconciler.inventory.desired import DesiredState
from reconciler.inventory.schema import DEFAULT_ARCHITECTURE

# What kernels run beside their own system's programs, and Nix takes them to; the inventory's word is enough there.
_OLDER = {"x86_64-linux": ("i686-linux",), "aarch64-linux": ("armv7l-linux", "armv6l-linux")}


def other_system(desired: DesiredState, found: str) -> ReconcilerError | None:
    """What is wrong with a host that is `found` (Nix's word for what it says of itself) and is meant to hold what is
    made for another system, and the line to write; None where nothing is. A host that holds nothing may be any."""
    if not desired.profiles or desired.architecture in (found, *_OLDER.get(found, ())):
        return None
    origin = desired.architecture_origin
    if origin is None:
        text = f"it is {found}, and the inventory does not say so: without `system`, a host is {DEFAULT_ARCHITECTURE}"
    else:
        text = f"it is {found}, and {origin.position} ({origin.scope}) says that it is {desired.architecture}"
    return ReconcilerError(text, hint=f"say it of the host or its group:  desired: {{system: {found}}}")
