"""What the machine that builds can do, as far as a derivation may ask for it."""

from __future__ import annotations

from reconciler.core.build.toolchain import host_system
from reconciler.core.nix.derivation import Derivation
from reconciler.core.values import value

# What every machine is taken to have unless something else is said of it: as Nix does, but for kvm, which is a device.
USUAL_FEATURES = ("benchmark", "big-parallel", "nixos-test")


@value
class Machine:
    """`systems`: those beside its own that it runs programs of. `features`: as in requiredSystemFeatures."""

    systems: tuple[str, ...] = ()
    features: tuple[str, ...] = USUAL_FEATURES

    def runs(self, system: str) -> bool:
        return system in (host_system(), "builtin", *self.systems)


PLAIN = Machine()


def required_features(derivation: Derivation) -> tuple[str, ...]:
    """What Nix calls requiredSystemFeatures, sorted."""
    return tuple(sorted(set(derivation.environment.get("requiredSystemFeatures", "").split())))
