"""A host as one user of its multi-user Nix sees it: neither root nor the store's owner, and served by Nix's daemon.

    ~/.local/state/reconciler/          what /nix/var/reconciler is elsewhere: lock, history, switching, created, agent
    ~/.local/state/reconciler/roots/    what gcroots/reconciler is: links, each a root by the daemon (AddIndirectRoot)

The home is that of the account; $XDG_STATE_HOME is not known over SSH, and has no say. Only this user's own profile can
be changed. The store is changed by the daemon, at our request.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from reconciler.core.agent.host import Host
from reconciler.core.errors import ReconcilerError, RefusedError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import value

if TYPE_CHECKING:
    from reconciler.core.build.events import BuildOptions, RealiseResult
    from reconciler.core.profile.names import ProfileId
    from reconciler.core.store.daemon import DaemonStore
    from reconciler.core.store.store import Store
    from reconciler.core.store.working import Index, WorkingStore

_AS_ROOT = "as root it can be done: ansible_become: true"


@value
class UserHost(Host):
    """`user`: the account that this process runs as; `home`: its home."""

    user: str = ""
    home: str = ""

    STATE: ClassVar[str] = ".local/state/reconciler"

    @classmethod
    def of(cls, root: str) -> UserHost | None:
        """The host as the user of this process; None where it has no account."""
        try:
            account = pwd.getpwuid(os.geteuid())
        except KeyError:
            return None
        return cls(root, user=account.pw_name, home=account.pw_dir)

    @property
    def state(self) -> str:
        return os.path.join(self.home, self.STATE)

    @property
    def stage_roots(self) -> str:
        return f"{self.state}/roots"

    @property
    def state_directories(self) -> tuple[str, ...]:
        parts = self.STATE.split("/")
        return tuple(os.path.join(self.home, *parts[: count + 1]) for count in range(len(parts)))

    def agent_cache(self, said: str) -> str:  # noqa: ARG002  # ours is not where root keeps one
        return self.path(f"{self.state}/agent")

    # --- the store ----------------------------------------------------------------------------------------------------

    @property
    def has_store(self) -> bool:
        return True

    def _open(self) -> DaemonStore:
        from reconciler.core.store.daemon import DaemonStore

        return DaemonStore.open(self.root)

    def open_store(self, create: bool = False) -> WorkingStore:  # noqa: ARG002  # it is there
        return self._open()

    def open_index(self) -> Index:
        return self._open()

    def own(self, store: WorkingStore) -> Store:  # noqa: ARG002  # none of them is
        raise RefusedError(*self._not_ours())

    def realise(self, store: WorkingStore, derivations: Sequence[StorePath], options: BuildOptions) -> RealiseResult:
        from reconciler.core.agent.daemon_builds import realise
        from reconciler.core.store.daemon import DaemonStore

        if not isinstance(store, DaemonStore):
            raise StoreError(f"{self.name}: the store is not the Nix daemon's")
        return realise(store, derivations, options)

    def forget_root(self, link: str) -> None:
        """The daemon's next collection takes away what leads nowhere."""

    # --- what may be done ---------------------------------------------------------------------------------------------

    @property
    def login(self) -> str:
        return self.user

    @property
    def unprivileged(self) -> str:
        """Why the daemon does not serve us. To ask it is to come to it: some versions make the directory of the user's
        profile then."""
        try:
            self._open().close()
        except ReconcilerError as error:
            return f"{self.user} is not root here, and {error.message}"
        return ""

    def require_privilege(self) -> None:
        problem = self.unprivileged
        if problem:
            raise RefusedError(f"{self.name}: {problem}", "ansible_become: true, or log in as root")

    @property
    def whole(self) -> bool:
        return False

    def require_mine(self, profile: ProfileId) -> None:
        if profile.user != self.user:
            raise RefusedError(
                f"{self.name}: {profile.owner} cannot be changed as {self.user}, only {self.user}'s own profile",
                _AS_ROOT,
            )

    def require_whole(self) -> None:
        raise RefusedError(*self._not_ours())

    def _not_ours(self) -> tuple[str, str]:
        return (
            f"{self.name}: the store is its Nix daemon's, and {self.user} may not work on its files and database",
            _AS_ROOT,
        )
