"""What plan, deploy and rollback have in common: from a prepared run to what is shown of it."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from reconciler.cli.ask import Consent, Details, ask
from reconciler.cli.options import Choice
from reconciler.cli.output import Output
from reconciler.cli.render.lock import age, new_entries_text
from reconciler.cli.render.plan import PlanView, brings_back, diff_text, hosts_text, plan_json, plan_text
from reconciler.cli.render.words import count, packages_named, revision, shell_word
from reconciler.core.activate import host_files
from reconciler.core.errors import RefusedError
from reconciler.fleet.ask import QuestionKind
from reconciler.fleet.events import Silent
from reconciler.fleet.plan import Plan
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.project import Project, shown
from reconciler.fleet.report import Report


def plan_view(prepared: Prepared, choice: Choice) -> PlanView:
    """Everything that the text of this plan says."""
    project, plan = prepared.project, prepared.plan
    return PlanView(
        inventory=inventory_name(project),
        revision=revision_of(project),
        pattern=prepared.pattern,
        plan=plan,
        seconds=prepared.seconds,
        group=_group(project, prepared.pattern, tuple(host.host for host in plan.hosts)),
        build_on=prepared.placement.all(host.host for host in plan.changing),
        builds=prepared.builds,
        sites=prepared.sites,
        copy_bytes=prepared.copy_bytes,
        fetches=prepared.fetches,
        creates=(host_files.PROFILE_SH, host_files.TMPFILES),
        creates_also=(
            f"{host_files.FISH} where fish is",
            f"{host_files.MOUNT} where systemd is: /nix/store is read-only",
        ),
        next=" ".join(["deploy", *_typed(choice, prepared.pattern), *(["--adopt"] if prepared.adopt else [])]),
        now=time.time(),
        reaches_hosts=prepared.facts.action.reaches_hosts,
        lock=age(tuple(project.lock.entries.values()), time.time()),
        unlocked=_unlocked(project),
    )


def _unlocked(project: Project) -> str:
    new = project.resolver.unlocked()
    return new_entries_text(new, lock_name(project)) if new else ""


def lock_name(project: Project) -> str:
    """The lock as the user would type it."""
    return shown(project.lock_file, Path.cwd())


def lock_new(project: Project, output: Output) -> None:
    """Pin the references that are new, and say so."""
    from reconciler.fleet import locking

    new = locking.lock_new(project)
    if new:
        output.note(f"locked     {new_entries_text(new, lock_name(project))}")


def _typed(choice: Choice, pattern: str) -> list[str]:
    words = ["--hosts", shell_word(pattern)]
    words += ["--limit", shell_word(choice.limit)] if choice.limit is not None else []
    words += ["--system"] if choice.system else []
    words += ["--users", shell_word(choice.users)] if choice.users is not None else []
    return words + (["--profiles", shell_word(choice.profiles)] if choice.profiles is not None else [])


def show_plan(prepared: Prepared, choice: Choice, output: Output, *, as_json: bool, diff: bool) -> None:
    """The plan as the data that was asked for."""
    view = plan_view(prepared, choice)
    if as_json:
        output.json(plan_json(view))
        return
    output.data(plan_text(view))
    if diff and prepared.plan.changing:
        output.data("\n" + diff_text(prepared.plan))


def agreed(prepared: Prepared, consent: Consent, output: Output, *, again: bool = True) -> bool:
    """Ask the plan's question, where it has one.

    Without `again`, what was rolled back is brought back only when somebody says so to the question itself:
    RefusedError where nobody can be asked, or was asked beforehand.
    """
    plan, question = prepared.plan, prepared.question
    warning = brings_back(plan, time.time())
    if warning and not again:
        if consent.given or not output.interactive:
            raise RefusedError(f"this would bring back {warning}", "change the inventory, or deploy --again")
        kind = QuestionKind.YES if question.kind is QuestionKind.NONE else question.kind
        asked = question.text or f"Switch {count(len(plan.changing), 'host')}?"
        text = f"Bring back what was rolled back? {asked}"  # the plan's note has said what, and by whom
        question = dataclasses.replace(question, kind=kind, number=len(plan.changing), text=text)
    details = Details(lambda: diff_text(plan), lambda: hosts_text(plan))
    return ask(question, consent, output, details)


def standing_still(prepared: Prepared) -> Report:
    """The report of a run in which no host is to change: nothing is carried out, and nothing is recorded."""
    facts = prepared.facts
    hosts = tuple(run.report() for run in prepared.runs(Silent()))
    return Report(
        facts.id, facts.kind, facts.who, facts.message, facts.action.value, hosts, prepared.seconds, facts.undoes
    )


def held(plan: Plan) -> dict[str, dict[str, str]]:
    """By host: the packages that the probe found in any of its profiles, with their versions."""
    found: dict[str, dict[str, str]] = {}
    for host in plan.hosts:
        states = host.observation.profiles if host.observation else ()
        found[host.host] = dict(each for state in states for each in packages_named(state.packages))
    return found


def inventory_name(project: Project) -> str:
    """The inventory as the user would type it."""
    path = str(project.inventory.path)
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def revision_of(project: Project) -> str:
    """`git 9bc1f04, clean`, or empty."""
    return revision(project.inventory.revision)


def _group(project: Project, pattern: str, hosts: tuple[str, ...]) -> str:
    """The group that has exactly these hosts, unless the pattern says so itself."""
    names = [
        name
        for name in project.inventory.groups
        if name not in ("all", "ungrouped", pattern) and set(project.inventory.hosts_of(name)) == set(hosts)
    ]
    return names[0] if len(names) == 1 else ""
