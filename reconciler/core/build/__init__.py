"""Realising derivations: what is not valid is built, in dependency order, in sandboxes that never run as root."""

from __future__ import annotations

from reconciler.core.build.events import BuildEvent, BuildOptions, RealiseResult
from reconciler.core.build.realise import realise

__all__ = ["BuildEvent", "BuildOptions", "RealiseResult", "realise"]
