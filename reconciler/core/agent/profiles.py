"""One profile of this host: looked at, changed, put back.

The system's stands in root's own directory and is worked on here, as `default` and profiles at a path are
(core.profile.places); a user's is worked on by a child that has become the user (core.profile.locate).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from reconciler.core.activate import nixos
from reconciler.core.agent import created
from reconciler.core.agent.host import PROFILES, SYSTEM_PROFILE, Host
from reconciler.core.agent.messages import Generation, GenerationRef
from reconciler.core.errors import InternalError, ReconcilerError, StoreError
from reconciler.core.profile import generations as numbered
from reconciler.core.profile import switching
from reconciler.core.profile.generations import Recorded
from reconciler.core.profile.names import ProfileId
from reconciler.core.profile.switching import Applied, Before, Departure, Step
from reconciler.core.profile.toplevel import is_nixos
from reconciler.core.values import value

if TYPE_CHECKING:  # only a user's profile needs them, and a probe is short
    from reconciler.core.profile.accounts import Account
    from reconciler.core.profile.locate import UserProfile
    from reconciler.core.store.working import WorkingStore


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
    if profile.is_system:
        return _find_system(host)
    return _find_place(host, profile) if profile.place else _find_user(host, profile)


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


def _find_place(host: Host, profile: ProfileId) -> Found:
    from reconciler.core.profile import places

    link = places.link_of(profile.place, host.root)
    try:
        with places.opened(link, host.root) as opened:
            return Found(profile, link, Before.of(opened), _generations(opened.list()))
    except FileNotFoundError:
        return Found(profile, link, NOTHING, ())
    except ReconcilerError as error:
        hint = f": {error.hint}" if error.hint else ""
        return Found(profile, link, NOTHING, (), f"{error.message}{hint}")
    except OSError as error:
        return Found(profile, link, NOTHING, (), str(error))


def _find_user(host: Host, profile: ProfileId) -> Found:
    from reconciler.core.profile import locate

    try:
        account = locate.account_of(profile.user, host.root)
        found = locate.read(account, host.root)
    except ReconcilerError as error:
        hint = f": {error.hint}" if error.hint else ""
        return Found(profile, locate.default_link(profile.user), NOTHING, (), f"{error.message}{hint}")
    return Found(profile, found.link, found.before, _generations(found.generations), "", account, found)


def was_there(found: Found, path: str) -> bool:
    """Whether some generation of the profile is `path`, whoever made it."""
    return any(one.path == path for one in found.generations)


def guard(host: Host, found: Found) -> str:
    """Why what is there may never be replaced by a deployment, given that it is not ours; empty when it may."""
    if found.current is None:
        return ""
    there = host.path(found.current.path)
    if found.profile.is_system:
        strange = is_nixos(there) and not nixos.is_host(host.root)
        return "it is a NixOS system, on a host that does not say that it runs NixOS" if strange else ""
    if os.path.lexists(os.path.join(there, "bin/nix")) or os.path.lexists(os.path.join(there, "bin/nix-env")):
        return "Nix itself lives in it"
    return ""


def change(host: Host, store: WorkingStore, found: Found, step: Step) -> Applied:
    """Make one change of a profile that has no problem. RefusedError, with nothing changed, when it is not what the
    step expects."""
    if found.problem:
        raise StoreError(f"{found.profile.label}: {found.problem}")
    if found.profile.is_system:
        with numbered.Profile(host.system_profile, host.own(store)).open(create=True) as opened:
            return switching.apply(opened, step)
    if found.profile.place:
        return _change_place(host, store, found, step)
    from reconciler.core.profile import locate

    account, user_profile = _of_user(found)
    created.note(host, _to_be_made(host, account, user_profile) if step.to else ())
    applied = locate.change(account, user_profile, step, host.root)
    if applied.created and applied.after is not None and numbered.needs_own_root(found.link, "/nix/var/nix"):
        store.add_indirect_root(f"{found.link}-{applied.after.number}-link")
    return applied


def _to_be_made(host: Host, account: Account, found: UserProfile) -> tuple[str, ...]:
    """What the first deployment to a user makes outside of the store."""
    from reconciler.core.profile import locate, places

    ours = found.link.startswith(f"{locate.PER_USER}/") or account.uid == os.geteuid()
    directories = places.missing_directories(found.link, host.root) if ours else ()
    return (*directories, *([f"{account.home}/{locate.HOME_LINK}"] if found.home_link else []))


def _change_place(host: Host, store: WorkingStore, found: Found, step: Step) -> Applied:
    from reconciler.core.profile import places

    created.note(host, places.missing_directories(found.link, host.root))
    with places.opened(found.link, host.root, create=True) as opened:
        applied = switching.apply(opened, step)
    keep_generations(store, found, applied.after)
    return applied


def keep_generations(store: WorkingStore, found: Found, current: Recorded | None) -> None:
    """Make sure that the collector finds the current generation of a profile outside of Nix's own folders. The roots of
    its stage keep it until this has been done."""
    if current is not None and current.number and numbered.needs_own_root(found.link, "/nix/var/nix"):
        store.add_indirect_root(f"{found.link}-{current.number}-link")


def restore(host: Host, found: Found, step: Step) -> None:
    """Put back what was found, whatever of the step was done. RefusedError when something else has changed the profile
    since."""
    if found.profile.is_system:
        with numbered.Profile(host.system_profile, None).open() as opened:
            switching.restore(opened, found.before, step)
        return
    if found.profile.place:
        from reconciler.core.profile import places

        with contextlib.suppress(FileNotFoundError), places.opened(found.link, host.root) as place:
            switching.restore(place, found.before, step)
        return
    from reconciler.core.profile import locate

    account, user_profile = _of_user(found)
    locate.restore(account, user_profile, step, host.root)


def depart(host: Host, found: Found, how: Departure, own_home_link: bool) -> None:
    """Leave a profile without a problem to itself. `own_home_link`: a deployment made the user's ~/.nix-profile."""
    if found.profile.user:
        from reconciler.core.profile import locate

        locate.depart(_of_user(found)[0], found.link, how, own_home_link, host.root)
        return
    from reconciler.core.profile import places

    with contextlib.suppress(FileNotFoundError), places.opened(found.link, host.root) as opened:
        switching.depart(opened, how)


def prune(
    host: Host, found: Found, doomed: Sequence[GenerationRef], keep: Collection[str]
) -> tuple[GenerationRef, ...]:
    """Delete recorded generations of a profile without a problem, but for what leads to `keep`; those that went."""
    from reconciler.core.profile import prune as pruning

    wanted = [Recorded(one.number, one.path) for one in doomed]
    if found.profile.user:
        from reconciler.core.profile import locate

        gone = locate.prune_generations(_of_user(found)[0], found.link, wanted, keep, host.root)
    else:
        from reconciler.core.profile import places

        gone = []
        with contextlib.suppress(FileNotFoundError), places.opened(found.link, host.root) as opened:
            gone = pruning.remove(opened, wanted, keep)
    return tuple(GenerationRef(one.number, one.path) for one in gone)


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
