"""What a command works on: the inventory, its package sets, the controller's own store."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.agent import mounts
from reconciler.core.errors import Faults, StoreError
from reconciler.core.nix.store_path import STORE_DIR
from reconciler.core.store.store import Store
from reconciler.inventory.builders import check_builders
from reconciler.inventory.inventory import Inventory, load
from reconciler.inventory.sets import RecipesSet
from reconciler.inventory.settings import Settings, find_inventory, load_settings, project_directory
from reconciler.packages import lock as locks
from reconciler.packages.downloads import cache_directory
from reconciler.packages.lock import Lock
from reconciler.packages.resolver import PackageSets, Resolver
from reconciler.transport.connection import ConnectOptions


@dataclass(frozen=True)
class Project:
    """Everything that a command reads before it talks to a host. `directory` is the project's root."""

    inventory: Inventory
    settings: Settings
    resolver: Resolver
    directory: Path
    store_root: str
    state_directory: Path
    connect: ConnectOptions
    lock: Lock = field(default_factory=Lock)
    package_sets: PackageSets = field(default_factory=PackageSets)

    @property
    def lock_file(self) -> Path:
        """Where the inventory's lock stands."""
        return locks.lock_file(self.inventory.directory)

    @property
    def recipe_folder(self) -> Path:
        """Where a new recipe goes: the folder beside the inventory when it is there, else the project's own."""
        name = next((each.directory for each in self.package_sets.sets if isinstance(each, RecipesSet)), "packages")
        near = self.inventory.directory / name
        return near if near.is_dir() else self.directory / name

    def resolver_with(self, lock: Lock) -> Resolver:
        """A resolver of the same packages that knows other pins."""
        return Resolver(self.directory, self.inventory.directory, lock, self.package_sets)

    def open_store(self) -> Store:
        """The controller's own store, made when it is not there yet."""
        return Store.open(self.store_root, create=True)

    def forks(self, asked: int | None) -> int:
        """How many hosts are worked on at once: the flag, else the project's setting."""
        return asked or self.settings.forks


def open_project(
    inventory: str | None, *, cwd: Path, environment: Mapping[str, str], connect: ConnectOptions
) -> Project:
    """Read the inventory and the settings; Faults tells everything that is wrong with them."""
    where = find_inventory(inventory, environment, cwd)
    directory = project_directory(where, cwd)
    loaded = load(where)
    settings = load_settings(directory)
    if strangers := check_builders(settings.builders, loaded.hosts):
        raise Faults(strangers)
    sets = PackageSets(settings.sets, settings.caches, cache_directory(environment))
    lock = locks.load(locks.lock_file(loaded.directory), shown(locks.lock_file(loaded.directory), cwd))
    return Project(
        inventory=loaded,
        settings=settings,
        resolver=Resolver(directory, loaded.directory, lock, sets),
        directory=directory,
        store_root=own_store(environment),
        state_directory=state_directory(environment),
        connect=connect,
        lock=lock,
        package_sets=sets,
    )


def shown(path: Path, cwd: Path) -> str:
    """A file as the user would type it."""
    relative = os.path.relpath(path, cwd)
    return str(path) if relative.startswith("..") else relative


def own_store(environment: Mapping[str, str]) -> str:
    """Where the controller's store stands: $RECONCILER_STORE, /nix where it may be written, else a root of its own.

    For root this process enters a mount namespace of its own where that is /nix: it may be mounted read-only, or become
    so when this machine is deployed to. Therefore to be called by the first thread, before there are others.
    """
    own = str(_home_place(environment, "XDG_DATA_HOME", ".local/share") / "reconciler" / "root")
    root = os.path.abspath(environment.get("RECONCILER_STORE") or "/")
    if root != "/":
        return root
    if os.geteuid() == 0 and os.path.isdir(STORE_DIR):
        _own_mounts()
    writable = os.access(STORE_DIR, os.W_OK) and os.access("/nix/var/nix/db", os.W_OK)
    return root if writable or "RECONCILER_STORE" in environment else own


@functools.cache
def _own_mounts() -> None:
    with contextlib.suppress(StoreError):  # where that is not allowed, /nix is used if it is writable as it is
        mounts.enter(STORE_DIR)


def state_directory(environment: Mapping[str, str]) -> Path:
    """Where the journal is kept: $XDG_STATE_HOME/reconciler."""
    return _home_place(environment, "XDG_STATE_HOME", ".local/state") / "reconciler"


def _home_place(environment: Mapping[str, str], variable: str, default: str) -> Path:
    given = environment.get(variable, "")
    return Path(given) if os.path.isabs(given) else Path(environment.get("HOME") or Path.home()) / default


def who() -> str:
    """Who runs this command, as history says it: `deployer@ops01`."""
    return f"{getpass.getuser()}@{socket.gethostname().split('.')[0]}"
