"""Which Python the agent is started with on a host: the one place that decides."""

from __future__ import annotations

import sys

from reconciler.core.agent.host import PYTHON_ROOT
from reconciler.inventory.desired import ConnectionSettings

# What `doctor --bring-python` left on a host that had none of its own, or none that is fit.
BROUGHT = f"{PYTHON_ROOT}/bin/python3"


def interpreters(settings: ConnectionSettings) -> tuple[str, str]:
    """In the order in which they are tried: the inventory's, else python3 on the host's PATH (here, the one that runs
    us); then the one that was brought. Ansible's `auto` spellings mean no more than that."""
    if settings.python is not None and not settings.python.startswith("auto"):
        return settings.python, BROUGHT
    return sys.executable if settings.connection == "local" else "python3", BROUGHT
