"""Whether a person must be asked, and what: decided from the plan alone. The asking itself is the command line's."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from reconciler.core.agent.action import Action
from reconciler.fleet.plan import HostPlan, Plan

MANY_HOSTS = 20


class QuestionKind(enum.Enum):
    """`NUMBER`: the number of hosts must be typed, so that a pattern wider than meant is noticed."""

    NONE = "none"
    YES = "yes"
    NUMBER = "number"


@dataclass(frozen=True)
class Question:
    """`text` is what is asked; `reasons` say why, for a refusal where nobody can be asked."""

    kind: QuestionKind
    number: int = 0
    text: str = ""
    reasons: tuple[str, ...] = ()


NOTHING_TO_ASK = Question(QuestionKind.NONE)


def about_deploy(plan: Plan, action: Action, pattern: str, protected: Collection[str]) -> Question:
    """The question before a deployment."""
    changing = plan.changing
    if not changing or not action.switches:
        return NOTHING_TO_ASK
    text = f"Switch {_hosts(len(changing))}?"
    strong = _strong_reasons([host.host for host in changing], pattern, protected)
    if strong:
        return Question(QuestionKind.NUMBER, len(changing), text, strong)
    reasons = _weak_reasons(changing)
    return Question(QuestionKind.YES, len(changing), text, reasons) if reasons else NOTHING_TO_ASK


def about_rollback(plan: Plan, undoes: str) -> Question:
    """The question before a rollback: always, and always `yes`."""
    changing = len(plan.changing)
    if not changing:
        return NOTHING_TO_ASK
    what = f"Roll back {undoes} on {_hosts(changing)}?" if undoes else f"Switch {_hosts(changing)} back?"
    return Question(QuestionKind.YES, changing, what, ("a rollback",))


def about_leave(hosts: Sequence[str], pattern: str, protected: Collection[str]) -> Question:
    """The question before hosts are left."""
    return _always(f"Undo the management of {_hosts(len(hosts))}?", "leave", hosts, pattern, protected)


def about_python(hosts: Sequence[str], names: str, pattern: str, protected: Collection[str]) -> Question:
    """The question before a Python is brought to hosts that have none."""
    return _always(f"Bring {names} to {_hosts(len(hosts))}?", "--bring-python", hosts, pattern, protected)


def about_gc(hosts: Sequence[str], generations: int, pattern: str, protected: Collection[str]) -> Question:
    """The question before generations and garbage are deleted."""
    what = f"{generations} generation{'' if generations == 1 else 's'} and what nothing keeps" if generations else ""
    text = f"Delete {what or 'what nothing keeps'} on {_hosts(len(hosts))}?"
    return _always(text, "gc", hosts, pattern, protected)


def _always(text: str, reason: str, hosts: Sequence[str], pattern: str, protected: Collection[str]) -> Question:
    """A question that is asked wherever there is a host to do something on."""
    if not hosts:
        return NOTHING_TO_ASK
    strong = _strong_reasons(hosts, pattern, protected)
    return Question(QuestionKind.NUMBER if strong else QuestionKind.YES, len(hosts), text, strong or (reason,))


def _strong_reasons(changing: Sequence[str], pattern: str, protected: Collection[str]) -> tuple[str, ...]:
    guarded = [host for host in changing if host in protected]
    found = []
    if len(changing) > MANY_HOSTS:
        found.append(f"{len(changing)} hosts change")
    if pattern.strip() == "all":
        found.append("the pattern is 'all'")
    if guarded:
        found.append(f"{', '.join(guarded)} {'is' if len(guarded) == 1 else 'are'} protected")
    return tuple(found)


def _weak_reasons(changing: tuple[HostPlan, ...]) -> tuple[str, ...]:
    found = []
    if len(changing) > 1:
        found.append(f"{len(changing)} hosts change")
    adopted = sorted({profile.owner for host in changing for profile in host.adopts})
    if adopted:
        found.append(f"--adopt replaces what something else made: {', '.join(adopted)}")
    removed = [change.profile.owner for host in changing for change in host.changes if change.orphaned]
    if removed:
        found.append(f"{', '.join(sorted(set(removed)))} left the inventory")
    return tuple(found)


def _hosts(count: int) -> str:
    return f"{count} host" if count == 1 else f"{count} hosts"
