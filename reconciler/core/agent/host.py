"""Where everything stands on a managed host, below whatever root directory it is looked at through."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reconciler.core.errors import RefusedError
from reconciler.core.fs import FileLock
from reconciler.core.values import field, value

if TYPE_CHECKING:  # probes that need no database do not load one
    from reconciler.core.agent.mounts import Outside
    from reconciler.core.store.store import Store

NIX_STATE = "/nix/var/nix"
DATABASE = f"{NIX_STATE}/db/db.sqlite"
OWN_STATE = "/nix/var/reconciler"
PROFILES = "/nix/var/nix/profiles"
SYSTEM_PROFILE = "/nix/var/nix/profiles/system"
STAGE_ROOTS = "/nix/var/nix/gcroots/reconciler"
# The interpreter that was brought to a host without one, among the roots of what is staged.
PYTHON_ROOT = f"{STAGE_ROOTS}/python"


@value(frozen=False)
class Session:
    """What this agent holds until it ends: the host's lock, for which deployment; what the inventory calls the host,
    once that was said; and the mount namespace that it left for one of its own."""

    lock: FileLock | None = None
    deployment: str = ""
    host: str = ""
    outside: Outside | None = None


@value
class Host:
    """The host whose root directory is `root`. Paths in messages are the host's own; `path` says where they are."""

    root: str = "/"
    session: Session = field(default_factory=Session, compare=False, repr=False)

    def path(self, logical: str) -> str:
        """Where the host's absolute path `logical` really is."""
        return os.path.join(self.root, logical.lstrip("/"))

    @property
    def name(self) -> str:
        """What the inventory calls the host, else what it calls itself; for errors."""
        return self.session.host or os.uname().nodename

    def existing(self, path: str) -> str:
        """Where `path` is, or the nearest directory above it that is there."""
        while path != "/" and not os.path.exists(self.path(path)):
            path = os.path.dirname(path)
        return self.path(path)

    @property
    def own_state(self) -> str:
        return self.path(OWN_STATE)

    @property
    def history(self) -> str:
        return self.path(f"{OWN_STATE}/history")

    @property
    def lock(self) -> str:
        return self.path(f"{OWN_STATE}/lock")

    @property
    def switching(self) -> str:
        """The record of a switch that is under way."""
        return self.path(f"{OWN_STATE}/switching")

    @property
    def activating(self) -> str:
        """The record that a NixOS system is being activated (nixos_switch)."""
        return self.path(f"{OWN_STATE}/activating")

    @property
    def cut_off(self) -> bool:
        """Whether a switch of the host's NixOS system has begun and not ended."""
        return os.path.lexists(self.activating)

    @property
    def nix_version(self) -> str:
        """Where the version of the host's own Nix is kept: asking it takes longer than all the rest of a probe."""
        return self.path(f"{OWN_STATE}/nix-version")

    @property
    def system_profile(self) -> str:
        return self.path(SYSTEM_PROFILE)

    @property
    def database(self) -> str:
        return self.path(DATABASE)

    @property
    def managed(self) -> bool:
        """Whether a deployment was begun here, and not undone whole. A build for others writes down that the store is
        ours (created.py), and manages nothing; nor do temporary files of one that was killed while it did."""
        try:
            found = os.listdir(self.own_state)
        except OSError:
            return False
        return any(name != "created" and not name.startswith(".") for name in found)

    def stage_root(self, profile: str) -> str:
        """The collector's root of what is staged for `profile`: `system`, `default`, `user/NAME`, and for a path
        `place/:opt:tools`."""
        name = f"place/{profile.replace('/', ':')}" if profile.startswith("/") else profile
        return self.path(f"{STAGE_ROOTS}/{name}")

    def open_store(self, create: bool = False) -> Store:
        """The host's store; a first deployment makes it (`create`). StoreError when it cannot be used."""
        from reconciler.core.store.store import Store

        return Store.open(self.root, create)

    @property
    def unprivileged(self) -> str:
        """Why this process may not deploy here; empty when it may."""
        own_store = os.access(self.existing("/nix/store"), os.W_OK) and os.access(self.existing(DATABASE), os.W_OK)
        if os.geteuid() == 0 or own_store:
            return ""
        return f"not root (uid {os.geteuid()}), and no store of one's own: /nix belongs to another user"

    def require_privilege(self) -> None:
        if self.unprivileged:
            raise RefusedError(f"{self.name}: {self.unprivileged}", "ansible_become: true, or log in as root")
