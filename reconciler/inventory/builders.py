"""Hosts that build for the project, as reconciler.yml lists them.

builders:
  - build01                               a host of the inventory; or, with what there is to say of it,
  - arm01: {system: aarch64-linux, jobs: 4, speed: 2, features: [big-parallel, kvm]}
  - controller: {system: aarch64-linux, features: [big-parallel, kvm]}     what this machine can do, too

system    what it runs programs of: one, or a list; without it, what the inventory says of that host
jobs      builds at a time, 1 to 1024; 1 without it
features  what it has of what derivations require (requiredSystemFeatures): exactly these; without it, `benchmark`,
          `big-parallel` and `nixos-test`, which every machine is taken to have
speed     how fast it is beside the others: a number, 1 without it

The controller builds in any case, for its own system, and as many at a time as the command line says: of it, only
`system` and `features` can be said. Whether the hosts are there is found out when the inventory is known:
`check_builders`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from reconciler.core.build.machine import USUAL_FEATURES
from reconciler.inventory.desired import Position
from reconciler.inventory.faults import FaultLog, InputError
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.schema import BUILD_PLACES, architecture_name
from reconciler.inventory.yaml import Mapping, Node, Scalar, Sequence, fail

MOST_JOBS = 1024
FEATURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]*")
CONTROLLER = BUILD_PLACES[0]
_KEYS = ("system", "jobs", "features", "speed")
_KEYS_OF_CONTROLLER = ("system", "features")
_NO_HOSTS = tuple(place for place in BUILD_PLACES if place != CONTROLLER)
_EXAMPLE = "- build01, or - build01: {system: x86_64-linux, jobs: 4, features: [big-parallel, kvm], speed: 2}"
_SPEED = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,3})?")


@dataclass(frozen=True)
class BuilderSpec:
    """A host that builds, or the controller. `systems` is empty where nothing is said: what the inventory says of the
    host counts."""

    host: str
    position: Position
    systems: tuple[str, ...] = ()
    jobs: int = 1
    features: tuple[str, ...] = USUAL_FEATURES
    speed: float = 1.0


def read_builders(node: Node, log: FaultLog) -> tuple[BuilderSpec, ...]:
    """The builders in their order; faults go to the log."""
    if not isinstance(node, Sequence):
        fail(node.position, "builders is not a list", f"write {_EXAMPLE}")
    found: dict[str, BuilderSpec] = {}
    for item in node.items:
        with log.catching():
            one = _builder(item)
            if one.host in found:
                fail(one.position, f"the builder '{one.host}' is there twice")
            found[one.host] = one
    return tuple(found.values())


def check_builders(builders: Iterable[BuilderSpec], hosts: Collection[str]) -> list[InputError]:
    """The builders that no host of the inventory is called as."""
    return [
        InputError(
            each.position,
            f"builders: no host of the inventory is called '{each.host}'",
            did_you_mean(each.host, hosts) or "a builder is a host of the inventory, by its name there",
        )
        for each in builders
        if each.host not in hosts
    ]


def _builder(item: Node) -> BuilderSpec:
    if isinstance(item, Scalar):
        return BuilderSpec(_host(item, BUILD_PLACES), item.position)
    if not isinstance(item, Mapping) or len(item.entries) != 1:
        fail(item.position, "a builder has one name", _EXAMPLE)
    (entry,) = item.entries.values()
    host, values = _host(entry.key, _NO_HOSTS), _known(entry.value, entry.key.text)
    return BuilderSpec(
        host,
        entry.key.position,
        _systems(values["system"]) if "system" in values else (),
        _jobs(values["jobs"]) if "jobs" in values else 1,
        _features(values["features"]) if "features" in values else USUAL_FEATURES,
        _speed(values["speed"]) if "speed" in values else 1.0,
    )


def _host(node: Scalar, places: Collection[str]) -> str:
    text = _word(node, "the name of a host")
    if text in places:
        fail(
            node.position,
            f"'{text}' is not a host",
            "the controller builds in any case, and targets where they are told; "
            "what the controller can do besides is said by  - controller: {system: aarch64-linux}",
        )
    return text


def _known(node: Node, host: str) -> dict[str, Node]:
    if not isinstance(node, Mapping):
        fail(node.position, f"what is said of the builder '{host}' is not a mapping", _EXAMPLE)
    known = _KEYS_OF_CONTROLLER if host == CONTROLLER else _KEYS
    for entry in node.entries.values():
        if entry.key.text not in known:
            hint = did_you_mean(entry.key.text, known) or f"known keys: {', '.join(known)}"
            fail(entry.key.position, f"unknown key '{entry.key.text}' of the builder '{host}'", hint)
    return {name: entry.value for name, entry in node.entries.items()}


def _systems(node: Node) -> tuple[str, ...]:
    items = node.items if isinstance(node, Sequence) else (node,)
    if not items:
        fail(node.position, "a builder has a system", "leave `system` out: what the inventory says of the host counts")
    return tuple(dict.fromkeys(_system(item) for item in items))


def _system(node: Node) -> str:
    text = _word(node, "a system")
    assert isinstance(node, Scalar)
    return architecture_name(text, node)


def _jobs(node: Node) -> int:
    text = node.text if isinstance(node, Scalar) else ""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_JOBS):
        fail(node.position, f"jobs is not a number from 1 to {MOST_JOBS}")
    return int(text)


def _features(node: Node) -> tuple[str, ...]:
    if not isinstance(node, Sequence):
        fail(node.position, "features is not a list", "features: [big-parallel, kvm]")
    found = []
    for item in node.items:
        text = _word(item, "a feature")
        if not FEATURE.fullmatch(text):
            fail(item.position, f"'{text}' cannot name a feature", "letters, digits and _ . : + - are allowed")
        found.append(text)
    return tuple(sorted(set(found)))


def _speed(node: Node) -> float:
    text = node.text if isinstance(node, Scalar) else ""
    if not _SPEED.fullmatch(text) or not float(text):
        fail(node.position, "speed is not a number above 0", "speed: 2 is taken before speed: 1")
    return float(text)


def _word(node: Node, what: str) -> str:
    if not isinstance(node, Scalar) or not node.text or any(character.isspace() for character in node.text):
        fail(node.position, f"{what} is one word", _EXAMPLE)
    return node.text
