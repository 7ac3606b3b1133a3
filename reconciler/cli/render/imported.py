"""What hosts hold, as YAML for an inventory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconciler.core.agent.messages import HeldPackage, Holding
from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import StorePath, parse_drv_name
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.importing import HostHoldings
from reconciler.inventory.schema import DEFAULT_ARCHITECTURE, DEFAULT_PRIORITY, store_path_name

_STEP = "  "


def imported_yaml(hosts: Sequence[HostHoldings]) -> str:
    """For one host what its file in host_vars/ says; for several a file of the inventory's folder."""
    good = [host for host in hosts if host.error is None]
    if len(hosts) == 1:
        return "\n".join(
            line for host in good for line in [f"# {host.host}: host_vars/{host.host}.yml", *_desired(host)]
        )
    lines = ["all:", f"{_STEP}hosts:"]
    for host in good:
        lines += [f"{_STEP * 2}{host.host}:", *_indented(_desired(host), 3)]
    return "\n".join(lines if good else ["all: {}"])


def _desired(host: HostHoldings) -> list[str]:
    lines = [] if host.system == DEFAULT_ARCHITECTURE else [f"system: {host.system}"]
    held = [(ProfileId.parse(holding.profile), holding) for holding in host.profiles]
    for profile, holding in held:
        if profile.is_system:
            lines += _profile(holding, "system")
    for key, kind in (
        ("profiles", [one for one in held if one[0].place]),
        ("users", [one for one in held if one[0].user]),
    ):
        inner = [line for profile, holding in kind for line in _named(profile, holding)]
        told = any(not line.startswith("#") for line in inner)
        lines += [f"{key}:", *_indented(inner, 1)] if told else inner
    return ["desired:", *_indented(lines, 1)] if any(not line.startswith("#") for line in lines) else lines


def _named(profile: ProfileId, holding: Holding) -> list[str]:
    lines = _profile(holding, profile.label)
    return lines if lines[0].startswith("#") and len(lines) == 1 else [f"{profile.label}:", *_indented(lines, 1)]


def _profile(holding: Holding, label: str) -> list[str]:
    if holding.note:
        return [f"# {label} is left out: {' '.join(holding.note.split())}"]
    taken: set[str] = set()
    items = [_package(package, taken) for package in holding.packages]
    if all(item.startswith("#") for item in items):
        return ["packages: []", *items]
    return ["packages:", *_indented(items, 1)]


def _package(package: HeldPackage, taken: set[str]) -> str:
    try:
        path = StorePath.parse(package.path)
    except FormatError as error:
        return f"# {error.message}"
    name, told = store_path_name(path), " ".join(parse_drv_name(path.name)).strip()
    value = (
        package.path if package.priority == DEFAULT_PRIORITY else f"{package.path}: {{priority: {package.priority}}}"
    )
    if not package.active:
        return f"# {value}      # {told}: it is not active there"
    if name in taken:
        return f"# {value}      # {told}: an inventory has one '{name}' for a profile"
    taken.add(name)
    return f"- {value}      # {told}"


def _indented(lines: Sequence[str], steps: int) -> list[str]:
    return [f"{_STEP * steps}{line}" for line in lines]


def imported_json(hosts: Sequence[HostHoldings]) -> dict[str, Any]:
    """The holdings as docs/json.md describes them."""
    return {
        "format": 1,
        "hosts": [
            {
                "host": host.host,
                "error": host.error.message if host.error else "",
                "system": host.system,
                "copied": host.copied,
                "profiles": [holding.to_json() for holding in host.profiles],
            }
            for host in hosts
        ],
    }
