"""One profile of this host, the system's or a user's: looked at, changed, put back.

The system's stands in root's own directory and is worked on here; a user's is worked on by a child that has become the
user (core.profile.locate).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from reconciler.core.agent.host import PROFILES, SYSTEM_PROFILE, Host
from reconciler.core.agent.messages import Generation, GenerationRef
from reconciler.core.errors import InternalError, ReconcilerError, StoreError
from reconciler.core.profile import generations as numbered
from reconciler.core.profile import switching
from reconciler.core.profile.generations import Recorded
from reconciler.core.profile.names import ProfileId
from reconciler.core.profile.switching import Applied, Before, Step
from reconciler.core.values import value

if TYPE_CHECKING:  # only a user's profile needs them, and a probe is short
    from reconciler.core.profile.accounts import Account
    from reconciler.core.profile.locate import UserProfile
    from reconciler.core.store.store import Store


NOTHING = Before(None, None, 0)


@value
class Found:
    """A profile as it was found. `link`: where it stands, on the host; `problem`: why it cannot be changed, else
    empty."""

    profile: ProfileId
    link: str
    before: Before
    generations: tuple[Generation, ...]
    problem: str = ""
    account: Account | None = None
    user_profile: UserProfile | None = None

    @property
    def current(self) -> GenerationRef | None:
        return reference(self.before.current)

    @property
    def highest(self) -> int:
        return max((one.number for one in self.generations), default=0)


def find(host: Host, profile: ProfileId) -> Found:
    """Look at a profile; changes nothing, and what is wrong with it is said in `problem`."""
    return _find_system(host) if profile.is_system else _find_user(host, profile)


def _find_system(host: Host) -> Found:
    try:
        with numbered.Profile(host.system_profile, None).open() as opened:
            problem = _foreign_writers(os.fstat(opened.directory))
            found = _generations(opened.list())
            before = Before.of(opened)
            return Found(ProfileId.SYSTEM, SYSTEM_PROFILE, before, found, problem)
    except FileNotFoundError:
        return Found(ProfileId.SYSTEM, SYSTEM_PROFILE, NOTHING, ())
    except (ReconcilerError, OSError) as error:
        return Found(ProfileId.SYSTEM, SYSTEM_PROFILE, NOTHING, (), str(error))


def _foreign_writers(status: os.stat_result) -> str:
    group_is_ours = status.st_gid in (0, os.getegid())
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not group_is_ours):
        return f"others than root may write to {PROFILES}: chmod go-w {PROFILES}"
    return ""


def _find_user(host: Host, profile: ProfileId) -> Found:
    from reconciler.core.profile import locate

    try:
        account = locate.account_of(profile.user, host.root)
        found = locate.read(account, host.root)
    except ReconcilerError as error:
        hint = f": {error.hint}" if error.hint else ""
        return Found(profile, locate.default_link(profile.user), NOTHING, (), f"{error.message}{hint}")
    return Found(profile, found.link, found.before, _generations(found.generations), "", account, found)


def change(host: Host, store: Store, found: Found, step: Step) -> Applied:
    """Make one change of a profile that has no problem. RefusedError, with nothing changed, when it is not what the
    step expects."""
    if found.problem:
        raise StoreError(f"{found.profile.label}: {found.problem}")
    if found.profile.is_system:
        with numbered.Profile(host.system_profile, store).open(create=True) as opened:
            return switching.apply(opened, step)
    from reconciler.core.profile import locate

    account, user_profile = _of_user(found)
    applied = locate.change(account, user_profile, step, host.root)
    if applied.created and applied.after is not None and numbered.needs_own_root(found.link, "/nix/var/nix"):
        store.add_indirect_root(f"{found.link}-{applied.after.number}-link")
    return applied


def restore(host: Host, found: Found, step: Step) -> None:
    """Put back what was found, whatever of the step was done. RefusedError when something else has changed the profile
    since."""
    if found.profile.is_system:
        with numbered.Profile(host.system_profile, None).open() as opened:
            switching.restore(opened, found.before, step)
        return
    from reconciler.core.profile import locate

    account, user_profile = _of_user(found)
    locate.restore(account, user_profile, step, host.root)


def _of_user(found: Found) -> tuple[Account, UserProfile]:
    if found.account is None or found.user_profile is None:
        raise InternalError(f"{found.profile} was not looked at")
    return found.account, found.user_profile


def reference(one: Recorded | None) -> GenerationRef | None:
    return None if one is None else GenerationRef(one.number, one.path)


def recorded(one: GenerationRef | None) -> Recorded | None:
    return None if one is None else Recorded(one.number, one.path)


def _generations(found: list[numbered.Generation] | tuple[numbered.Generation, ...]) -> tuple[Generation, ...]:
    return tuple(Generation(one.number, one.path, one.created, one.current) for one in found)
