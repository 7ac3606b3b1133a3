"""An inventory: hosts and groups, and what is desired of each host.

`load` reads everything there is and finds every fault in it at once; what it returns answers without failing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.core.nix.store_path import STORE_DIR
from reconciler.inventory.connection import connection_settings, truth
from reconciler.inventory.desired import (
    ConnectionSettings,
    DesiredState,
    Origin,
    PackageEntry,
    Position,
    ProfileSpec,
)
from reconciler.inventory.faults import FaultLog, InputError
from reconciler.inventory.git import Revision, revision_of
from reconciler.inventory.graph import Drafts, Group, Host, hosts_of
from reconciler.inventory.layers import Layers
from reconciler.inventory.merge import Dropped, Merged, profile_id
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.patterns import Selector
from reconciler.inventory.resolved import PLACE, SYSTEM
from reconciler.inventory.schema import BUILD_PLACES, DEFAULT_ARCHITECTURE, NIXOS, UNMANAGED
from reconciler.inventory.sources import read_source, source_files
from reconciler.inventory.templates import Variables
from reconciler.inventory.varfiles import VariableFiles
from reconciler.inventory.variables import HostVariables


def load(path: Path) -> Inventory:
    """The inventory of a file or a folder; Faults with everything that is wrong with it, in the order of the files."""
    log = FaultLog()
    drafts = Drafts(log)
    given = os.fspath(path)
    directory = given if os.path.isdir(given) else os.path.dirname(given)
    written = True
    for source in _sources(given, log):
        with log.catching():
            written = not read_source(source, drafts) and written
    files = VariableFiles(directory, drafts)
    # Where a file of hosts could not be read, or a program names them, a group may be missing for now.
    files.read(complete=written and not log)
    groups, hosts = drafts.freeze()
    variables = HostVariables(groups, hosts, directory, tuple(files.unread))
    found = {name: _facts(name, variables.of(name), log) for name in hosts}
    layers = Layers(groups, hosts, variables, log)
    merged = {name: layers.merged(name, log) for name in hosts}
    _check_builders(merged, log)
    log.check()
    return Inventory(path, Path(directory or "."), groups, hosts, variables, merged, found)


@dataclass(frozen=True)
class Facts:
    """What Ansible's variables say of a host that is not its desired state."""

    connection: ConnectionSettings
    protected: bool


@dataclass(frozen=True)
class Inventory:
    """Hosts and groups by name, in the order of the files.

    `path` is as it was given, `directory` the folder that it is or is in.
    """

    path: Path
    directory: Path
    groups: Mapping[str, Group]
    hosts: Mapping[str, Host]
    _variables: HostVariables = field(repr=False)
    _merged: Mapping[str, Merged] = field(repr=False)
    _facts: Mapping[str, Facts] = field(repr=False)

    def select(self, pattern: str) -> list[str]:
        """The hosts that a pattern means, in Ansible's order; UsageError for a part that matches nothing."""
        return self._selector.select(pattern)

    def desired(self, host: str) -> DesiredState:
        """What a host shall hold; KeyError, here and below, for a host that the inventory does not have."""
        merged = self._merged[host]
        profiles = {user: ProfileSpec(packages) for user, packages in merged.packages.items()}
        system = profiles.pop(SYSTEM, None)
        places = {profile_id(key).place: profiles.pop(key) for key in list(profiles) if key.startswith(PLACE)}
        keep = merged.keep.retention if merged.keep is not None else None
        build_on = merged.build_on.text if merged.build_on is not None else ""
        substitute_on = merged.substitute_on.text if merged.substitute_on is not None else ""
        nixos = merged.nixos.text if merged.nixos is not None else ""
        if merged.nixos is not None and nixos != UNMANAGED:
            system = _toplevel(merged.nixos)
        said = merged.architecture
        architecture = DEFAULT_ARCHITECTURE if said is None else said.text
        return DesiredState(
            host, architecture, system, profiles, places, keep, build_on, substitute_on, nixos, architecture_origin=said
        )

    def dropped(self, host: str) -> tuple[Dropped, ...]:
        """The entries that reach a host from farther away and that `drop` takes from it."""
        return self._merged[host].dropped

    def connection(self, host: str) -> ConnectionSettings:
        """How a host is reached."""
        return self._facts[host].connection

    def protected(self, host: str) -> bool:
        """Whether every change of a host is asked about: its variable `protected`."""
        return self._facts[host].protected

    def variables(self, host: str) -> dict[str, Any]:
        """Ansible's variables of a host, typed as Ansible types them, templates as they are written."""
        return self._variables.plain(host)

    def hosts_of(self, group: str) -> list[str]:
        """The hosts of a group and of those below it; KeyError for a group that the inventory does not have."""
        return hosts_of(group, self.groups)

    def git(self) -> Revision | None:
        """The revision of the inventory's folder; None where it is in no repository."""
        return self._revision

    @property
    def revision(self) -> str:
        """The commit, `-dirty` behind it where the folder differs; empty where it is in no repository."""
        return str(self._revision) if self._revision else ""

    @functools.cached_property
    def _revision(self) -> Revision | None:
        return revision_of(os.fspath(self.directory))

    @functools.cached_property
    def _selector(self) -> Selector:
        return Selector(self.hosts, self.groups)


def _toplevel(said: Origin) -> ProfileSpec:
    """The system profile of a NixOS host."""
    reference = said.text if said.text.startswith(STORE_DIR) else NIXOS + said.text
    return ProfileSpec({"nixos": PackageEntry("nixos", reference, said)}, nixos=True)


def _check_builders(merged: Mapping[str, Merged], log: FaultLog) -> None:
    """`build_on` names a host, or one of the places that are called otherwise; each place that does not, once."""
    said = {(each.build_on.position, each.build_on.text) for each in merged.values() if each.build_on is not None}
    said |= {
        (entry.origin.position, entry.build_on)
        for each in merged.values()
        for entries in each.packages.values()
        for entry in entries.values()
        if entry.build_on
    }
    for position, place in sorted(said):
        if place not in (*BUILD_PLACES, *merged):
            hint = did_you_mean(place, [*BUILD_PLACES, *merged]) or f"{', '.join(BUILD_PLACES)}, or a host"
            log.add(InputError(position, f"build_on: no host is called '{place}'", hint))


def _sources(given: str, log: FaultLog) -> list[str]:
    if not os.path.isdir(given):
        return [given]
    names = source_files(given)
    if not names:
        log.add(InputError(Position(given, 0, 0), "a folder without a file of hosts", "begin with hosts.yml"))
    return [os.path.join(given, name) for name in names]


def _facts(host: str, variables: Variables, log: FaultLog) -> Facts:
    protected = False
    node = variables.node("protected")
    if node is not None:
        with log.catching(host):
            protected = truth(variables["protected"], "protected", node.position)
    return Facts(connection_settings(host, variables, log), protected)
