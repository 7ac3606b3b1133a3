"""What would change: decided from the desired and the observed state, with no I/O."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.agent.messages import GenerationRef, HistoryEntry, Observation, ProfileState
from reconciler.core.errors import ExitStatus, ReconcilerError, worst
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.outcomes import State
from reconciler.inventory.outputs import told


class ChangeKind(enum.Enum):
    """The sign that a plan's line begins with."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "~"


@dataclass(frozen=True, order=True)
class PackageChange:
    """One package of one profile. Versions are empty where there is none; `rebuilt`: same version, another path."""

    name: str
    kind: ChangeKind = field(compare=False)
    before: str = ""
    after: str = ""

    @property
    def rebuilt(self) -> bool:
        return self.kind is ChangeKind.CHANGED and self.before == self.after


@dataclass(frozen=True)
class ProfileChangePlan:
    """One profile that changes on one host. `to` is empty when the profile is to go away (the undoing of a first
    deployment); `number` names the recorded generation to go back to, 0 for Nix's own numbering, `will_be` is the
    number it will have."""

    profile: ProfileId
    before: GenerationRef | None
    to: str
    number: int
    will_be: int
    packages: tuple[PackageChange, ...]
    orphaned: bool = False

    def same_change(self, other: ProfileChangePlan) -> bool:
        """Whether both look alike in a plan, whatever the generations' numbers."""
        return (self.profile, self.to, self.packages) == (other.profile, other.to, other.packages)


@dataclass(frozen=True)
class HostPlan:
    """What one host needs. `error` is why it takes no part; `state` is then unreachable, failed or refused, else
    planned or unchanged. `problems` are profiles that are left out, each with its reason."""

    host: str
    state: State
    observation: Observation | None = None
    changes: tuple[ProfileChangePlan, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    error: ReconcilerError | None = None
    undone: tuple[HistoryEntry, ...] = ()

    @property
    def first(self) -> bool:
        """Whether this host is not managed yet."""
        return self.observation is not None and not self.observation.managed

    @property
    def login(self) -> str:
        """The user whose profile alone can be changed there; empty where all can be."""
        return self.observation.login if self.observation is not None else ""

    @property
    def adopts(self) -> tuple[ProfileId, ...]:
        """The profiles that are replaced although something else made what is there."""
        states = {state.profile: state for state in self.observation.profiles} if self.observation else {}
        changing = (change.profile for change in self.changes)
        return tuple(each for each in changing if str(each) in states and states[str(each)].foreign)

    @property
    def removes(self) -> bool:
        return any(change.orphaned or not change.to for change in self.changes)


@dataclass(frozen=True)
class Plan:
    """The plan of a fleet, in the inventory's order of hosts."""

    hosts: tuple[HostPlan, ...]

    def having(self, state: State) -> tuple[HostPlan, ...]:
        return tuple(host for host in self.hosts if host.state is state)

    @property
    def changing(self) -> tuple[HostPlan, ...]:
        return self.having(State.PLANNED)

    @property
    def undone(self) -> tuple[tuple[str, HistoryEntry], ...]:
        """What this plan would bring back although it was rolled back, with the host."""
        return tuple((host.host, entry) for host in self.changing for entry in host.undone)

    @property
    def status(self) -> ExitStatus:
        """What `plan --exit-code` ends with."""
        pending = ExitStatus.PENDING if self.changing else ExitStatus.OK
        partial = (ExitStatus.FAILED for host in self.hosts if host.problems)
        return worst([pending, *partial, *(host.state.status for host in self.hosts)])

    def groups(self) -> tuple[tuple[HostPlan, ...], ...]:
        """Hosts that change in the same way together, in the order of their first."""
        groups: list[list[HostPlan]] = []
        for host in self.changing:
            for group in groups:
                if _alike(group[0], host):
                    group.append(host)
                    break
            else:
                groups.append([host])
        return tuple(tuple(group) for group in groups)


def _alike(one: HostPlan, other: HostPlan) -> bool:
    return (
        one.first == other.first
        and one.login == other.login
        and one.adopts == other.adopts
        and one.problems == other.problems
        and len(one.changes) == len(other.changes)
        and all(a.same_change(b) for a, b in zip(one.changes, other.changes, strict=True))
    )


@dataclass(frozen=True)
class Target:
    """What one profile shall be: its store path, and the packages by which a person knows it. `nixos`: a system of
    NixOS's."""

    path: str
    packages: tuple[StorePath, ...]
    nixos: bool = False


def plan_host(host: str, wanted: Mapping[ProfileId, Target], empty: Target | None, observed: Observation) -> HostPlan:
    """The plan for a host that was probed.

    `wanted` has every profile that the inventory declares; `empty` is what a profile other than the system's
    becomes that a deployment of ours made and the inventory no longer names; None where such profiles are not to be
    touched.
    """
    if observed.problems:
        error = ReconcilerError("; ".join(observed.problems), hint=f"reconciler doctor --hosts {host}")
        return HostPlan(host, State.FAILED, observed, error=error)
    if (misplaced := _misplaced(host, wanted, observed)) is not None:
        return HostPlan(host, State.FAILED, observed, error=misplaced)
    if (others := not_of_login(host, wanted, observed)) is not None:
        return HostPlan(host, State.FAILED, observed, error=others)
    problems = _twice(wanted, observed)
    changes = []
    for profile, target, orphaned in _targets(wanted, empty, observed):
        state = observed.profile(str(profile))
        if profile.label in problems:
            continue
        if state is None or state.problem:
            problems[profile.label] = state.problem if state else "the probe did not report it"
        elif not _runs(profile, target, state, observed):
            changes.append(_change(profile, target, state, orphaned))
    state_of_host = State.PLANNED if changes else (State.FAILED if problems else State.UNCHANGED)
    return HostPlan(host, state_of_host, observed, tuple(changes), problems, undone=_undone(changes, observed))


def _misplaced(host: str, wanted: Mapping[ProfileId, Target], observed: Observation) -> ReconcilerError | None:
    """A system of NixOS's goes with a host that runs NixOS, and with no other."""
    system = wanted.get(ProfileId.SYSTEM)
    if system is None or system.nixos == observed.nixos:
        return None
    if system.nixos:
        return ReconcilerError(
            f"{host} runs {observed.os}, and the inventory has a NixOS system for it (`nixos`)",
            hint=f"leave `nixos` out for it; reconciler inventory --host {host} shows where it comes from",
        )
    return ReconcilerError(
        f"{host} runs NixOS, whose system profile holds NixOS systems alone",
        hint="nixos: FLAKE#NAME in its desired, or `nixos: unmanaged`: its packages are then the default profile's",
    )


def not_of_login(
    host: str, wanted: Iterable[ProfileId], observed: Observation, what: str = "the inventory has more"
) -> ReconcilerError | None:
    """Where the login is a user of the host's Nix: `what` is wanted beside that user's own profile."""
    others = [profile.owner for profile in wanted if profile.user != observed.login]
    if not observed.login or not others:
        return None
    return ReconcilerError(
        f"{host}: the login is {observed.login}, a user of its Nix daemon, who may change no profile but "
        f"{observed.login}'s own; {what}: {', '.join(others)}",
        hint=f"--users {observed.login} leaves the rest to others; as root all of it can be done: ansible_become: true",
    )


def _twice(wanted: Mapping[ProfileId, Target], observed: Observation) -> dict[str, str]:
    """Profiles that the inventory declares under two names, and that are one on this host (`default`, and root's)."""
    links: dict[str, list[ProfileId]] = {}
    for profile in wanted:
        state = observed.profile(str(profile))
        if state is not None and not state.problem:
            links.setdefault(state.link, []).append(profile)
    same = [(link, profiles) for link, profiles in links.items() if len(profiles) > 1]
    return {
        profile.label: f"{' and '.join(each.owner for each in profiles)} are one profile on this host: {link}"
        for link, profiles in same
        for profile in profiles
    }


def _targets(
    wanted: Mapping[ProfileId, Target], empty: Target | None, observed: Observation
) -> Iterable[tuple[ProfileId, Target, bool]]:
    for profile, target in wanted.items():
        yield profile, target, False
    for state in observed.profiles if empty is not None else ():
        profile = ProfileId.parse(state.profile)
        if empty is not None and not profile.is_system and profile not in wanted and _left_by_us(state, empty):
            yield profile, empty, True


def _left_by_us(state: ProfileState, empty: Target) -> bool:
    return (
        state.last is not None
        and state.last.after is not None
        and state.current is not None
        and (state.current == state.last.after and state.current.path != empty.path)
    )


def _runs(profile: ProfileId, target: Target, state: ProfileState, observed: Observation) -> bool:
    if state.current is None or state.current.path != target.path or not state.complete or state.cut_off:
        return False
    return not profile.is_system or observed.running == target.path


def _change(profile: ProfileId, target: Target, state: ProfileState, orphaned: bool) -> ProfileChangePlan:
    packages = package_changes((StorePath.parse(path) for path in state.packages), target.packages)
    return ProfileChangePlan(
        profile, state.current, target.path, 0, next_number(state, target.path), packages, orphaned
    )


def next_number(state: ProfileState, path: str) -> int:
    """Nix's rule: highest + 1, but the highest itself when it already points there."""
    return state.highest if state.highest_path == path else state.highest + 1


def _undone(changes: Sequence[ProfileChangePlan], observed: Observation) -> tuple[HistoryEntry, ...]:
    found = []
    for change in changes:
        state = observed.profile(str(change.profile))
        found += [e for e in (state.undone if state else ()) if e.before is not None and e.before.path == change.to]
    return tuple(found)


def package_changes(before: Iterable[StorePath], after: Iterable[StorePath]) -> tuple[PackageChange, ...]:
    """The difference between two sets of packages, by name."""
    old, new = _by_name(before), _by_name(after)
    changes = []
    for name in sorted(old.keys() | new.keys()):
        gone, come = old.get(name, {}), new.get(name, {})
        if gone.keys() == come.keys():
            continue
        changes.append(PackageChange(name, _kind(gone, come), ", ".join(gone.values()), ", ".join(come.values())))
    return tuple(changes)


def _kind(gone: Mapping[StorePath, str], come: Mapping[StorePath, str]) -> ChangeKind:
    if not gone:
        return ChangeKind.ADDED
    return ChangeKind.CHANGED if come else ChangeKind.REMOVED


def _by_name(paths: Iterable[StorePath]) -> dict[str, dict[StorePath, str]]:
    found: dict[str, dict[StorePath, str]] = {}
    for each in told(sorted(paths, key=lambda path: path.name)):
        found.setdefault(each.name, {})[each.path] = each.shown
    return found
