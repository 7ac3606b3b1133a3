"""What a rollback would put back, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.cli.render.words import change_words, columns, count, number, quoted, when
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import ChangeKind, HostPlan, Plan, ProfileChangePlan

_WIDTH = 106


@dataclass(frozen=True)
class RollbackView:
    """Everything that a rollback's plan says. `undoes` is the deployment's id, or empty with --to; `who`, `when`,
    `message` and `revision` are that deployment's, as far as they are known here (`when` 0: not)."""

    plan: Plan
    undoes: str = ""
    who: str = ""
    when: float = 0.0
    message: str = ""
    revision: str = ""
    nothing: Mapping[str, str] = field(default_factory=dict)
    now: float = 0.0


def rollback_text(view: RollbackView, nothing_changed: bool) -> str:
    """The whole plan of a rollback. `nothing_changed`: say so at its end, because nothing follows it."""
    blocks = [_head(view), _table(view)]
    if view.plan.changing:
        blocks.append(_facts(view))
    tail = ["Nothing was changed."] if nothing_changed else []
    if not view.plan.changing:
        tail = ["Nothing to put back.", *tail]
    text = "\n\n".join("\n".join(block) for block in blocks)
    return text + ("\n" + "\n".join(tail) if view.plan.changing and tail else "\n\n" + "\n".join(tail) if tail else "")


def _head(view: RollbackView) -> list[str]:
    if not view.undoes:
        return ["goes back to the generations that were named:"]
    made = ", ".join(
        part
        for part in (view.who, when(view.when, view.now) if view.when else "", count(len(view.plan.hosts), "host"))
        if part
    )
    words = [view.undoes, quoted(view.message) if view.message else "", made]
    return ["   ".join(word for word in words if word), "puts back what each had before it:"]


def _table(view: RollbackView) -> list[str]:
    rows: list[tuple[str, ...]] = [("host", "profile", "now -> to", "what changes")]
    shown: HostPlan | None = None
    for host in view.plan.hosts:
        if host.state is not State.PLANNED:
            rows.append((host.host, "-", "", _reason(host, view)))
        elif shown is not None and _same(shown, host):
            rows.append((host.host, "(the same)", "", ""))
        else:
            shown = host
            rows += [_row(host.host if index == 0 else "", change) for index, change in enumerate(host.changes)]
    return columns(rows)


def _row(host: str, change: ProfileChangePlan) -> tuple[str, ...]:
    to = str(change.will_be) if change.to else "none"
    words = "; ".join(change_words(each) for each in change.packages) or ("" if change.to else "the profile goes away")
    return host, change.profile.label, f"{number(change.before)} -> {to}", words or "the same packages"


def _same(one: HostPlan, other: HostPlan) -> bool:
    def looks(host: HostPlan) -> list[tuple[object, ...]]:
        return [(c.profile, c.before, c.to, c.will_be, c.packages) for c in host.changes]

    return looks(one) == looks(other)


def _reason(host: HostPlan, view: RollbackView) -> str:
    if host.error is not None:
        hint = f"   next  {host.error.hint}" if host.error.hint else ""
        message = host.error.message.removeprefix(f"{host.host}: ")
        return f"{host.state.value.upper()}: {' '.join(message.split())}{hint}"
    return f"nothing: {view.nothing.get(host.host, 'it has that already')}"


def _facts(view: RollbackView) -> list[str]:
    back = _undone_packages(view.plan)
    what = f" ({', '.join(back)})" if back else ""
    afterwards = (
        f"while the inventory still asks for what this undoes{what}, the next deploy of these hosts says so and needs"
        " --again."
    )
    if view.revision and not view.revision.endswith("-dirty"):
        afterwards += f"  git revert {view.revision[:7]}  is the lasting undo."
    return [
        "every generation is on its host and complete; nothing to copy",
        "not undone   data (/var), accounts, what scripts and services did meanwhile",
        *textwrap.wrap(
            afterwards,
            _WIDTH,
            initial_indent="afterwards   ",
            subsequent_indent=" " * 13,
            break_long_words=False,
            break_on_hyphens=False,
            fix_sentence_endings=False,
            drop_whitespace=True,
        ),
    ]


def _undone_packages(plan: Plan) -> list[str]:
    """Names and versions that a rollback takes away, at most three."""
    found = {
        f"{c.name} {c.before}".strip(): None
        for host in plan.changing
        for change in host.changes
        for c in change.packages
        if c.kind is not ChangeKind.ADDED
    }
    return [*list(found)[:3], *(["…"] if len(found) > 3 else [])]
