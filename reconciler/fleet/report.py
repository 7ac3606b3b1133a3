"""What a run did, host by host, as a probe of the hosts would find it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from reconciler.core.agent.messages import GenerationRef
from reconciler.core.errors import ExitStatus, worst
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import ChangeKind, PackageChange


@dataclass(frozen=True)
class ProfileReport:
    """One profile of one host. `before` and `after` are what was planned; `now` is what it is, as far as is known."""

    profile: ProfileId
    before: GenerationRef | None
    after: GenerationRef | None
    now: GenerationRef | None
    packages: tuple[PackageChange, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "profile": str(self.profile),
            "before": _generation(self.before),
            "after": _generation(self.after),
            "now": _generation(self.now),
            "packages": [
                {"name": c.name, "change": c.kind.value, "before": c.before, "after": c.after} for c in self.packages
            ],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ProfileReport:
        packages = tuple(
            PackageChange(c["name"], ChangeKind(c["change"]), c["before"], c["after"]) for c in value["packages"]
        )
        before, after, now = (_read_generation(value[key]) for key in ("before", "after", "now"))
        return cls(ProfileId.parse(value["profile"]), before, after, now, packages)


@dataclass(frozen=True)
class HostReport:
    """How one host ended. `detail` says why when that is not plain; `probed`: `now` was read from the host after the
    run changed it, or nothing was changed since the probe. `sent`: bytes of archives that it got from the controller,
    `fetched`: those that it got from binary caches by itself."""

    host: str
    state: State
    profiles: tuple[ProfileReport, ...] = ()
    detail: str = ""
    hint: str = ""
    probed: bool = True
    partial: bool = False
    sent: int = 0
    fetched: int = 0

    @property
    def status(self) -> ExitStatus:
        """A host that switched, less some of its profiles, has failed in part."""
        return ExitStatus.FAILED if self.partial and self.state.status is ExitStatus.OK else self.state.status

    def to_json(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "state": self.state.value,
            "profiles": [profile.to_json() for profile in self.profiles],
            "detail": self.detail,
            "hint": self.hint,
            "probed": self.probed,
            "partial": self.partial,
            "sent": self.sent,
            "fetched": self.fetched,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> HostReport:
        profiles = tuple(ProfileReport.from_json(profile) for profile in value["profiles"])
        return cls(
            value["host"],
            State(value["state"]),
            profiles,
            value["detail"],
            value["hint"],
            value["probed"],
            value["partial"],
            value.get("sent", 0),
            value.get("fetched", 0),
        )


@dataclass(frozen=True)
class Report:
    """One run: `kind` is deploy or rollback, `undoes` the deployment that a rollback undid, `seconds` how long the run
    took after it was asked for; `notes` what went wrong beside it."""

    id: str
    kind: str
    who: str
    message: str
    action: str
    hosts: tuple[HostReport, ...]
    seconds: float
    undoes: str = ""
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> ExitStatus:
        return worst(host.status for host in self.hosts)

    def counts(self) -> dict[State, int]:
        """How many hosts ended in each state, in the order of `State`."""
        counter = Counter(host.state for host in self.hosts)
        return {state: counter[state] for state in State if counter[state]}

    def to_json(self) -> dict[str, Any]:
        return {
            "deployment": self.id,
            "kind": self.kind,
            "who": self.who,
            "message": self.message,
            "action": self.action,
            "undoes": self.undoes,
            "seconds": round(self.seconds, 3),
            "status": int(self.status),
            "notes": list(self.notes),
            "hosts": [host.to_json() for host in self.hosts],
        }


def _generation(value: GenerationRef | None) -> dict[str, Any] | None:
    return value.to_json() if value else None


def _read_generation(value: dict[str, Any] | None) -> GenerationRef | None:
    return GenerationRef.from_json(value) if value else None
