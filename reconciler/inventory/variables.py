"""The variables of every host, with Ansible's precedence, and the ones that Ansible adds by itself.

From weak to strong: groups in the hosts file, group_vars (each time from far to near), the host in the hosts file,
host_vars. Added: inventory_hostname, inventory_hostname_short, inventory_dir, inventory_file, group_names, groups,
hostvars.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from reconciler.inventory.graph import ALL, Group, Host, hosts_of
from reconciler.inventory.templates import Variables, View
from reconciler.inventory.yaml import Node, plain

T = TypeVar("T")


class HostVariables:
    """Variables by host, made when they are asked for. `unread` are files that ansible-vault encrypted."""

    def __init__(
        self, groups: Mapping[str, Group], hosts: Mapping[str, Host], directory: str, unread: tuple[str, ...]
    ) -> None:
        self._groups = groups
        self._hosts = hosts
        self._directory = os.path.abspath(directory)
        self._unread = unread
        self._scopes: dict[str, Variables] = {}
        self._of_groups: dict[tuple[str, ...], dict[str, Node]] = {}
        self._members = Lazy(groups, lambda name: hosts_of(name, groups))
        self._hostvars = Lazy(hosts, lambda name: View(self.of(name)))

    def of(self, host: str) -> Variables:
        """The variables of a host, rendered as they are looked up."""
        if host not in self._scopes:
            found = self._hosts[host]
            self._scopes[host] = Variables(self._nodes(found), self._added(found), self._unread)
        return self._scopes[host]

    def plain(self, host: str) -> dict[str, Any]:
        """The variables of a host as YAML 1.1 types them, templates as they are written."""
        return {name: plain(node) for name, node in self._nodes(self._hosts[host]).items()}

    def _nodes(self, host: Host) -> dict[str, Node]:
        if host.groups not in self._of_groups:
            said = [self._groups[group].said for group in host.groups]
            nodes: dict[str, Node] = {}
            for variables in [*(one.variables for one in said), *(one.file_variables for one in said)]:
                nodes.update(variables)
            self._of_groups[host.groups] = nodes
        return {**self._of_groups[host.groups], **host.said.variables, **host.said.file_variables}

    def _added(self, host: Host) -> dict[str, Any]:
        return {
            "inventory_hostname": host.name,
            "inventory_hostname_short": host.name.split(".")[0],
            "inventory_dir": self._directory,
            "inventory_file": os.path.abspath(host.file) if host.file else "",
            "group_names": sorted(group for group in host.groups if group != ALL),
            "groups": self._members,
            "hostvars": self._hostvars,
        }


class Lazy(Mapping[str, T]):
    """The keys of a mapping, each with a value that is made when it is looked up."""

    def __init__(self, keys: Mapping[str, Any], make: Callable[[str], T]) -> None:
        self._keys = keys
        self._make = make

    def __getitem__(self, name: str) -> T:
        if name not in self._keys:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
