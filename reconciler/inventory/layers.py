"""Which blocks reach a host, and how near each is: the groups by depth and priority, then the host itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from reconciler.inventory.faults import FaultLog
from reconciler.inventory.graph import Group, Host, Said, Written
from reconciler.inventory.merge import CONFLICT_TAIL, Merged, merge
from reconciler.inventory.resolved import Resolved, resolve, resolve_fixed
from reconciler.inventory.schema import Block, parse_block
from reconciler.inventory.variables import HostVariables


@dataclass(frozen=True)
class _Known:
    """A block, and what it says where it says the same to every host."""

    block: Block
    resolved: Resolved | None


class Layers:
    """Merges what is desired of each host. Everything is parsed here, once; `log` gets the faults of that."""

    def __init__(
        self, groups: Mapping[str, Group], hosts: Mapping[str, Host], variables: HostVariables, log: FaultLog
    ) -> None:
        self._groups = groups
        self._hosts = hosts
        self._variables = variables
        self._known: dict[tuple[int, str], _Known] = {}
        self._shared: dict[tuple[str, ...], Merged] = {}
        for said in [group.said for group in groups.values()] + [host.said for host in hosts.values()]:
            for written in said.desired:
                self._parse(written, log)

    def merged(self, name: str, log: FaultLog) -> Merged:
        """What is desired of a host; its faults are logged in its name."""
        host = self._hosts[name]
        layers = [
            [block for group in same for block in self._blocks(self._groups[group].said)]
            for _, same in groupby(host.groups, key=lambda group: self._groups[group].distance)
        ]
        layers.append(self._blocks(host.said))
        merged = self._merge(host, layers, log)
        for fault, names_hosts in merged.faults:
            log.add(fault, name, CONFLICT_TAIL if names_hosts else " (on {})")
        return merged

    def _merge(self, host: Host, layers: list[list[_Known]], log: FaultLog) -> Merged:
        # Hosts of the same groups that say nothing themselves hold the same, unless a template tells them apart.
        alike = not layers[-1] and all(known.resolved is not None for layer in layers for known in layer)
        if alike and host.groups in self._shared:
            return self._shared[host.groups]
        merged = merge([self._resolved(known, host.name, log) for known in layer] for layer in layers)
        if alike:
            self._shared[host.groups] = merged
        return merged

    def _resolved(self, known: _Known, host: str, log: FaultLog) -> Resolved:
        if known.resolved is not None:
            return known.resolved
        variables = self._variables.of(host)
        return resolve(known.block, variables.text, variables.tree, log, host)

    def _blocks(self, said: Said) -> list[_Known]:
        return [self._known[_key(written)] for written in said.desired]

    def _parse(self, written: Written, log: FaultLog) -> None:
        key = _key(written)
        if key not in self._known:
            block = parse_block(written.node, written.scope, log)
            fixed = resolve_fixed(block, log)
            self._known[key] = _Known(block, None if block.templated else fixed)


def _key(written: Written) -> tuple[int, str]:
    # The hosts of one range share one node, which lives as long as the inventory does.
    return id(written.node), written.scope
