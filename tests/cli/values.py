"""Values built by hand for the renderers' tests."""

from __future__ import annotations

import time

from reconciler.core.agent.messages import GenerationRef, HistoryEntry, Observation, ProfileState
from reconciler.core.errors import ReconcilerError, UnreachableError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import ChangeKind, HostPlan, PackageChange, ProfileChangePlan

# A Thursday, in whatever zone the tests run.
NOW = time.mktime((2026, 3, 12, 15, 0, 0, 0, 0, -1))
MIB = 2**20


def path(name: str, letter: str = "a") -> str:
    return f"/nix/store/{letter * 32}-{name}"


def ref(number: int, letter: str = "a") -> GenerationRef:
    return GenerationRef(number, path("system", letter))


def entry(
    deployment: str, when: float, kind: str = "deploy", message: str = "", undoes: str = "", **more: object
) -> HistoryEntry:
    values: dict[str, object] = {"profile": "system", "before": ref(40), "after": ref(41, "b"), "who": "deployer@ops01"}
    return HistoryEntry(deployment=deployment, kind=kind, when=when, message=message, undoes=undoes, **(values | more))  # type: ignore[arg-type]


def state(profile: str, number: int | None, last: HistoryEntry | None = None, letter: str = "a") -> ProfileState:
    current = ref(number, letter) if number else None
    return ProfileState(
        profile, f"/nix/var/nix/profiles/{profile}", current, number or 0, current.path if current else "", last=last
    )


def observation(*profiles: ProfileState, managed: bool = True, free: int = 4100 * MIB) -> Observation:
    return Observation(
        hostname="web01",
        machine_id="0" * 32,
        boot_id="1" * 32,
        system="x86_64-linux",
        os="Debian 12",
        python="3.11.2",
        uid=0,
        managed=managed,
        nix="",
        store_free=free,
        store_total=10 * free,
        systemd=252,
        running=profiles[0].current.path if profiles and profiles[0].current else "",
        booted="",
        profiles=profiles,
        valid=(),
        lock=None,
    )


NGINX = PackageChange("nginx", ChangeKind.CHANGED, "1.24.0", "1.26.1")
MAXMIND = PackageChange("libmaxminddb", ChangeKind.ADDED, "", "1.9.1")
GEOIP = PackageChange("geoip", ChangeKind.REMOVED, "1.6.12", "")
FD = PackageChange("fd", ChangeKind.ADDED, "", "10.2.0")
SHOP = PackageChange("shop-app", ChangeKind.CHANGED, "2.8.0", "2.8.0")


def change(
    *packages: PackageChange,
    user: str = "",
    before: int | None = 40,
    will_be: int = 41,
    to: str = path("system", "b"),
    orphaned: bool = False,
) -> ProfileChangePlan:
    old = ref(before) if before else None
    return ProfileChangePlan(ProfileId(user), old, to, 0, will_be, packages, orphaned)


def changing(
    host: str, *changes: ProfileChangePlan, managed: bool = True, undone: tuple[HistoryEntry, ...] = ()
) -> HostPlan:
    return HostPlan(host, State.PLANNED, observation(managed=managed), changes, undone=undone)


def unchanged(host: str) -> HostPlan:
    return HostPlan(host, State.UNCHANGED, observation(state("system", 41)))


def absent(host: str, state: State = State.UNREACHABLE, error: ReconcilerError | None = None) -> HostPlan:
    return HostPlan(host, state, error=error or UnreachableError("ssh: connection timed out after 10 s"))
