"""Hosts and groups: drafted while files are read, then frozen with their order as Ansible has it.

Every group without a parent is a child of `all`; every host in no group of its own is in `ungrouped`. A group's depth
is the longest way down from `all`. Of a host's groups the deeper is the nearer; `ansible_group_priority` orders those
of one depth, and the name those of one priority.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.inventory.desired import Position
from reconciler.inventory.faults import FaultLog, InputError
from reconciler.inventory.names import group_name_problem, host_name_hint, host_name_problem
from reconciler.inventory.yaml import Entry, Node, Scalar, typed

ALL = "all"
UNGROUPED = "ungrouped"


@dataclass(frozen=True)
class Written:
    """What one place wrote under `desired`. `scope` is how messages name the place: `group web`, `host web01`."""

    scope: str
    node: Node


@dataclass(frozen=True)
class Said:
    """What an inventory says of one host or group: variables of the hosts file, of group_vars or host_vars, and every
    `desired`."""

    variables: Mapping[str, Node]
    file_variables: Mapping[str, Node]
    desired: tuple[Written, ...]


@dataclass(frozen=True)
class Group:
    """`hosts` and `children` are the direct ones, in the order of the files; `depth` counts from `all`, which is 0."""

    name: str
    hosts: tuple[str, ...]
    children: tuple[str, ...]
    parents: tuple[str, ...]
    depth: int
    priority: int
    said: Said = field(repr=False, compare=False)

    @property
    def distance(self) -> tuple[int, int]:
        """What orders groups of one host: the greater is the nearer, the same is equally near."""
        return self.depth, self.priority


@dataclass(frozen=True)
class Host:
    """`groups` holds every group that the host is in, farthest (`all`) first. `file` named it first."""

    name: str
    groups: tuple[str, ...]
    file: str
    said: Said = field(repr=False, compare=False)


@dataclass
class Draft:
    """One host or group while it is read; dicts without values keep an order."""

    name: str
    file: str = ""
    hosts: dict[str, None] = field(default_factory=dict)
    children: dict[str, None] = field(default_factory=dict)
    variables: dict[str, Node] = field(default_factory=dict)
    file_variables: dict[str, Node] = field(default_factory=dict)
    desired: list[Written] = field(default_factory=list)
    priority: int = 1

    def say(self, entry: Entry, scope: str, from_file: bool = False) -> None:
        """Set a variable; a later one replaces an earlier, except that every `desired` counts."""
        if entry.key.text == "desired":
            self.desired.append(Written(scope, entry.value))
        (self.file_variables if from_file else self.variables)[entry.key.text] = entry.value

    @property
    def said(self) -> Said:
        return Said(self.variables, self.file_variables, tuple(self.desired))


class Drafts:
    """The inventory while it is read. Faults go to `log`; what is at fault is left out."""

    def __init__(self, log: FaultLog) -> None:
        self.log = log
        self.groups: dict[str, Draft] = {ALL: Draft(ALL), UNGROUPED: Draft(UNGROUPED)}
        self.hosts: dict[str, Draft] = {}
        self.groups[ALL].children[UNGROUPED] = None

    def group(self, key: Scalar) -> Draft | None:
        """The group of a name, made when new; None (and a fault) for a name that no group may have."""
        if key.text not in self.groups:
            problem = group_name_problem(key.text)
            if problem is not None:
                self.log.add(InputError(key.position, problem, "a group name is printable and has no '/'"))
                return None
            self.groups[key.text] = Draft(key.text)
        return self.groups[key.text]

    def host(self, name: str, group: Draft, position: Position) -> Draft | None:
        """The host of a name, put into a group; None (and a fault) for a name that no host may have."""
        if name not in self.hosts:
            problem = host_name_problem(name)
            if problem is not None:
                self.log.add(InputError(position, problem, host_name_hint(name)))
                return None
            self.hosts[name] = Draft(name, position.file)
        group.hosts[name] = None
        return self.hosts[name]

    def child(self, parent: Draft, child: Draft, position: Position) -> None:
        """Put a group into a group; a fault where that closes a circle."""
        way = self._way(child.name, parent.name)
        if child.name == ALL:
            self.log.add(
                InputError(position, f"'{ALL}' holds every group and is in none: not in '{parent.name}' either")
            )
        elif way:
            circle = " -> ".join([*way, child.name])
            self.log.add(InputError(position, f"group '{child.name}' is inside itself: {circle}"))
        else:
            parent.children[child.name] = None

    def group_variable(self, group: Draft, entry: Entry) -> None:
        """A variable of a group in a hosts file, where ansible_group_priority counts."""
        if entry.key.text == "ansible_group_priority":
            value = typed(entry.value) if isinstance(entry.value, Scalar) else None
            if isinstance(value, str) and value.lstrip("-").isdecimal():
                value = int(value)
            if not isinstance(value, int) or isinstance(value, bool):
                self.log.add(InputError(entry.value.position, "ansible_group_priority is not a whole number"))
                return
            group.priority = value
            return
        group.say(entry, f"group {group.name}")

    def _way(self, start: str, goal: str) -> list[str]:
        """The groups from one down to another, both included; empty where there is no way."""
        came: dict[str, str | None] = {start: None}
        todo = [start]
        while todo:
            name = todo.pop()
            if name == goal:
                return _backwards(came, name)
            for child in self.groups[name].children:
                if child not in came:
                    came[child] = name
                    todo.append(child)
        return []

    def freeze(self) -> tuple[dict[str, Group], dict[str, Host]]:
        """The groups and hosts by name, in the order of the files."""
        parents = self._parents()
        depths: dict[str, int] = {}
        for name in graphlib.TopologicalSorter(parents).static_order():
            depths[name] = max((depths[parent] + 1 for parent in parents[name]), default=0)
        self._fill_ungrouped()
        groups = {
            draft.name: Group(
                draft.name,
                tuple(draft.hosts),
                tuple(draft.children),
                tuple(parents[draft.name]),
                depths[draft.name],
                draft.priority,
                draft.said,
            )
            for draft in self.groups.values()
        }
        return groups, self._freeze_hosts(groups)

    def _parents(self) -> dict[str, list[str]]:
        parents: dict[str, list[str]] = {name: [] for name in self.groups}
        for group in self.groups.values():
            for child in group.children:
                parents[child].append(group.name)
        for name, above in parents.items():
            if not above and name != ALL:
                above.append(ALL)
                self.groups[ALL].children[name] = None
        return parents

    def _fill_ungrouped(self) -> None:
        grouped: set[str] = set()
        for group in self.groups.values():
            if group.name not in {ALL, UNGROUPED}:
                grouped.update(group.hosts)
        self.groups[UNGROUPED].hosts = {name: None for name in self.hosts if name not in grouped}

    def _freeze_hosts(self, groups: Mapping[str, Group]) -> dict[str, Host]:
        direct: dict[str, list[str]] = {name: [] for name in self.hosts}
        for group in groups.values():
            for name in group.hosts:
                direct[name].append(group.name)
        order: dict[tuple[str, ...], tuple[str, ...]] = {}
        hosts = {}
        for draft in self.hosts.values():
            own = tuple(direct[draft.name])
            if own not in order:
                order[own] = _far_to_near(own, groups)
            hosts[draft.name] = Host(draft.name, order[own], draft.file, draft.said)
        return hosts


def _far_to_near(own: Iterable[str], groups: Mapping[str, Group]) -> tuple[str, ...]:
    """These groups and all above them, in Ansible's order of precedence."""
    found = {ALL}
    todo = list(own)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(groups[name].parents)
    return tuple(sorted(found, key=lambda name: (*groups[name].distance, name)))


def _backwards(came: Mapping[str, str | None], last: str) -> list[str]:
    way = [last]
    while (before := came[way[-1]]) is not None:
        way.append(before)
    return way[::-1]


def hosts_of(name: str, groups: Mapping[str, Group]) -> list[str]:
    """The hosts of a group and of the groups below it, level by level, each once."""
    found: dict[str, None] = {}
    seen = {name: None}
    level = [name]
    while level:
        for group in level:
            found.update(dict.fromkeys(groups[group].hosts))
        below = dict.fromkeys(child for group in level for child in groups[group].children)
        level = [child for child in below if child not in seen]
        seen.update(below)
    return list(found)
