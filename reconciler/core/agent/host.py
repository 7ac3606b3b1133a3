"""Where everything stands on a managed host, below whatever root directory it is looked at through."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconciler.core.errors import InternalError, RefusedError
from reconciler.core.fs import FileLock
from reconciler.core.nix.store_path import STORE_DIR, StorePath
from reconciler.core.values import field, value

if TYPE_CHECKING:  # probes that need no database do not load one
    from reconciler.core.agent.mounts import Outside
    from reconciler.core.build.events import BuildOptions, RealiseResult
    from reconciler.core.profile.names import ProfileId
    from reconciler.core.store.store import Store
    from reconciler.core.store.working import Index, WorkingStore

NIX_STATE = "/nix/var/nix"
DATABASE = f"{NIX_STATE}/db/db.sqlite"
OWN_STATE = "/nix/var/reconciler"
DAEMON_SOCKET = f"{NIX_STATE}/daemon-socket/socket"
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
    """The host whose root directory is `root`, where all of it may be changed. Paths in messages are the host's own;
    `path` says where they are. What differs for a user of a store that is Nix's daemon's: user_host.py."""

    root: str = "/"
    session: Session = field(default_factory=Session, compare=False, repr=False)

    @classmethod
    def here(cls, root: str) -> Host:
        """The host as this process may work on it: as a whole, or, where the store is another user's and a daemon
        serves it, as one of that daemon's users."""
        host = Host(root)
        if not host.unprivileged or not os.path.lexists(host.path(DAEMON_SOCKET)):
            return host
        from reconciler.core.agent.user_host import UserHost

        return UserHost.of(root) or host

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

    # --- where our own files are --------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The directory of our own files, as the host calls it."""
        return OWN_STATE

    @property
    def stage_roots(self) -> str:
        """The directory of the roots of what is staged, as the host calls it."""
        return STAGE_ROOTS

    @property
    def state_directories(self) -> tuple[str, ...]:
        """The directories that a first deployment makes where they are missing, the outermost first."""
        return ("/nix", STORE_DIR, NIX_STATE, OWN_STATE)

    def agent_cache(self, said: str) -> str:
        """Where our code is kept for the next time, given where the controller `said`."""
        return said

    @property
    def own_state(self) -> str:
        return self.path(self.state)

    @property
    def history(self) -> str:
        return self.path(f"{self.state}/history")

    @property
    def lock(self) -> str:
        return self.path(f"{self.state}/lock")

    @property
    def created(self) -> str:
        """The record of what was made (created.py)."""
        return self.path(f"{self.state}/created")

    @property
    def switching(self) -> str:
        """The record of a switch that is under way."""
        return self.path(f"{self.state}/switching")

    @property
    def activating(self) -> str:
        """The record that a NixOS system is being activated (nixos_switch)."""
        return self.path(f"{self.state}/activating")

    @property
    def cut_off(self) -> bool:
        """Whether a switch of the host's NixOS system has begun and not ended."""
        return os.path.lexists(self.activating)

    @property
    def nix_version(self) -> str:
        """Where the version of the host's own Nix is kept: asking it takes longer than all the rest of a probe."""
        return self.path(f"{self.state}/nix-version")

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
        return self.path(f"{self.stage_roots}/{name}")

    # --- the store ----------------------------------------------------------------------------------------------------

    @property
    def has_store(self) -> bool:
        return os.path.exists(self.database)

    def open_store(self, create: bool = False) -> WorkingStore:
        """The host's store; a first deployment makes it (`create`). StoreError when it cannot be used."""
        from reconciler.core.store.store import Store

        return Store.open(self.root, create)

    def open_index(self) -> Index:
        """What is registered in the store that there is: the database alone, since the rest of a store takes longer to
        import than a probe takes."""
        from reconciler.core.store.database import Database

        return Database(self.path(NIX_STATE))

    def own(self, store: WorkingStore) -> Store:
        """A store that `open_store` gave, as the files and the database that it is; RefusedError where they are not
        ours to work on."""
        from reconciler.core.store.store import Store

        if not isinstance(store, Store):
            raise InternalError(f"{self.name}: the store is none of ours")
        return store

    def realise(self, store: WorkingStore, derivations: Sequence[StorePath], options: BuildOptions) -> RealiseResult:
        """Build here; see core.build.realise."""
        from reconciler.core.build.realise import realise

        return realise(self.own(store), derivations, options)

    def forget_root(self, link: str) -> None:
        """The link `link`, which lay anywhere and was a root, is gone."""
        from reconciler.core.store import roots

        roots.remove_indirect(self.path(NIX_STATE), link)

    # --- what may be done ---------------------------------------------------------------------------------------------

    @property
    def login(self) -> str:
        """The one user whose profile can be changed; empty where everything can."""
        return ""

    @property
    def whole(self) -> bool:
        """Whether what is not one user's is ours as well: the system, its files, the store."""
        return True

    def require_mine(self, profile: ProfileId) -> None:
        """RefusedError where this profile is not ours to change."""

    def require_whole(self) -> None:
        """RefusedError unless the whole host is ours to work on."""
        self.require_privilege()

    @property
    def unprivileged(self) -> str:
        """Why this process may not deploy here; empty when it may."""
        if os.geteuid() == 0:
            return ""
        if os.access(self.existing("/nix/store"), os.W_OK) and os.access(self.existing(DATABASE), os.W_OK):
            return ""
        return f"not root (uid {os.geteuid()}), and no store of one's own: /nix belongs to another user"

    def require_privilege(self) -> None:
        if self.unprivileged:
            raise RefusedError(f"{self.name}: {self.unprivileged}", "ansible_become: true, or log in as root")
