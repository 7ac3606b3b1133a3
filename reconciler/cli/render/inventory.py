"""An inventory, as text and as `ansible-inventory --list` prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.cli.render.words import columns, count, revision
from reconciler.inventory.desired import ConnectionSettings, DesiredState, ProfileSpec
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.schema import DEFAULT_PRIORITY

_IMPLIED = ("all", "ungrouped")


def list_text(inventory: Inventory, hosts: Sequence[str]) -> str:
    """Groups, then a line for each host with its profiles."""
    chosen = set(hosts)
    blocks = [[_head(inventory, hosts)]]
    groups = [
        (name, " ".join(host for host in inventory.hosts_of(name) if host in chosen), " ".join(group.children))
        for name, group in inventory.groups.items()
        if name not in _IMPLIED and chosen & set(inventory.hosts_of(name))
    ]
    if groups:
        blocks.append(columns([("group", "hosts", "of groups"), *groups]))
    blocks.append(columns([("host", "login", "system", "users"), *(_row(inventory, host) for host in hosts)]))
    return "\n\n".join("\n".join(block) for block in blocks)


def _head(inventory: Inventory, hosts: Sequence[str]) -> str:
    parts = [f"inventory  {inventory.path}", revision(inventory.revision), count(len(hosts), "host")]
    return "   ".join(part for part in parts if part)


def _row(inventory: Inventory, host: str) -> tuple[str, ...]:
    desired = inventory.desired(host)
    others = (*desired.places.items(), *desired.users.items())
    users = ", ".join(f"{name} ({len(spec.packages)})" for name, spec in others)
    system = _references(desired.system) if desired.system is not None else desired.nixos or "left alone"
    return host, login(inventory.connection(host)), system or "no packages", users or "-"


def _references(spec: ProfileSpec) -> str:
    return " ".join(entry.reference for entry in spec.packages.values())


def login(settings: ConnectionSettings) -> str:
    """`deploy@10.0.0.1:2222, sudo`."""
    if settings.connection == "local":
        return "local, sudo" if settings.become else "local"
    where = settings.address or settings.host
    user = f"{settings.user}@" if settings.user else ""
    port = f":{settings.port}" if settings.port else ""
    become = f", {settings.become_method}" if settings.become else ""
    return f"{user}{where}{port}{become}"


def host_text(inventory: Inventory, host: str) -> str:
    """One host: its groups, login, and every package with the place that it comes from."""
    desired = inventory.desired(host)
    facts = [
        ("host", host),
        ("groups", " ".join(inventory.hosts[host].groups)),
        ("login", login(inventory.connection(host))),
        ("system", desired.architecture),
    ]
    lines = columns([*facts, *([("protected", "every change is asked about")] if inventory.protected(host) else [])])
    for profile, spec in desired.profiles.items():
        rows = [(entry.reference, f"{entry.origin.position.file}:{entry.origin.position.line}", entry.origin.scope)
                for entry in spec.packages.values()]  # fmt: skip
        lines += ["", profile.label, *(columns(rows, indent="  ") or ["  no packages"])]
    if desired.system is None:
        why = "it is NixOS's own" if desired.nixos else "nothing declares packages for it"
        lines += ["", f"the system's profile is left alone: {why}"]
    return "\n".join(lines)


def desired_json(desired: DesiredState) -> dict[str, Any]:
    """The merged desired state, in the inventory's own words."""
    found: dict[str, Any] = {"system": desired.architecture}
    if desired.nixos:
        found["nixos"] = desired.nixos
    elif desired.system is not None:
        found["packages"] = _packages(desired.system)
    if desired.users:
        found["users"] = {name: {"packages": _packages(spec)} for name, spec in desired.users.items()}
    if desired.keep is not None:
        kept = {"generations": desired.keep.generations, "days": desired.keep.days}
        found["keep"] = {name: number for name, number in kept.items() if number is not None}
    if desired.build_on:
        found["build_on"] = desired.build_on
    if desired.substitute_on:
        found["substitute_on"] = desired.substitute_on
    if desired.places:
        found["profiles"] = {name: {"packages": _packages(spec)} for name, spec in desired.places.items()}
    return found


def _packages(spec: ProfileSpec) -> list[str | dict[str, Any]]:
    found: list[str | dict[str, Any]] = []
    for entry in spec.packages.values():
        options: dict[str, Any] = {"priority": entry.priority} if entry.priority != DEFAULT_PRIORITY else {}
        options |= {"build_on": entry.build_on} if entry.build_on else {}
        found.append({entry.reference: options} if options else entry.reference)
    return found


def host_json(inventory: Inventory, host: str) -> dict[str, Any]:
    """A host's variables, with `desired` as it is merged."""
    variables: Mapping[str, Any] = inventory.variables(host)
    return {**variables, "desired": desired_json(inventory.desired(host))}


def list_json(inventory: Inventory, hosts: Sequence[str]) -> dict[str, Any]:
    """The shape of `ansible-inventory --list`: groups with their hosts and children, and every host's variables."""
    chosen = set(hosts)
    document: dict[str, Any] = {"_meta": {"hostvars": {host: host_json(inventory, host) for host in hosts}}}
    for name, group in inventory.groups.items():
        parts = {
            "children": list(group.children),
            "hosts": [host for host in group.hosts if host in chosen] if name != "all" else [],
        }
        kept = {key: value for key, value in parts.items() if value}
        if kept or name == "all":
            document[name] = kept
    return document
