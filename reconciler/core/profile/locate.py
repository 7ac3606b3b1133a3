"""A user's profile: where it stands, and reading and changing it as that user.

    ~/.nix-profile -> P                 P, after one readlink, as Nix does
    ~/.local/state/nix/profile -> P     P (use-xdg-base-directories)
    ~/.local/state/nix/profiles/profile that, when it is there
    /nix/var/nix/profiles/per-user/USER/profile     else, where that directory is there or we can make it
    ~/.local/state/nix/profiles/profile             else (a user of a Nix since 2.14 that is not ours)

In the last three cases ~/.nix-profile is made when the profile is first switched. Paths here are as the host sees them;
`root` is where its root directory is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.profile import prune, switching, walk
from reconciler.core.profile.accounts import Account, as_user, find_account, refuse_foreign_writers
from reconciler.core.profile.generations import Generation, Generations, Recorded
from reconciler.core.profile.switching import Applied, Before, Departure, Step
from reconciler.core.values import value

PER_USER = "/nix/var/nix/profiles/per-user"
HOME_LINK = ".nix-profile"
_XDG_LINK = ".local/state/nix/profile"
_XDG_PROFILE = ".local/state/nix/profiles/profile"
_NOTHING = Before(None, None, 0)


@value
class UserProfile:
    """What was found of a user's profile. `home_link` is what ~/.nix-profile is to lead to when it must be made."""

    link: str
    home_link: str
    before: Before
    generations: tuple[Generation, ...]

    @property
    def current(self) -> Recorded | None:
        return self.before.current


def account_of(user: str, root: str = "/") -> Account:
    """StoreError when there is no such account."""
    account = find_account(user, root)
    if account is None:
        raise StoreError(f"there is no account '{user}'")
    return account


def default_link(user: str) -> str:
    return f"{PER_USER}/{user}/profile"


def user_profile_link(user: str, root: str = "/") -> str:
    """Where the profile of `user` stands or would stand. StoreError without account or home."""
    return read(account_of(user, root), root).link


def read(account: Account, root: str = "/") -> UserProfile:
    """Look at the profile as its user. StoreError says why it cannot be deployed, where that is so."""
    found = as_user(account, _read, _makes_per_user(root), root=root)
    generations = tuple(Generation(*one) for one in found["generations"])
    return UserProfile(found["link"], found["home_link"], Before.from_plain(found["before"]), generations)


def _makes_per_user(root: str) -> bool:
    """Whether the directories below PER_USER are ours to make: root's, or those of a store that is our own."""
    if os.geteuid() == 0:
        return True
    there = PER_USER
    while not os.path.lexists(os.path.join(root, there.lstrip("/"))):
        there = os.path.dirname(there)
    return os.lstat(os.path.join(root, there.lstrip("/"))).st_uid == os.geteuid()


def prepare(account: Account, link: str, root: str = "/") -> None:
    """Make the user's own directory under per-user when the profile belongs there and it is missing.

    Root's part: the directory above is root's. StoreError when it, or what stands there, cannot be trusted.
    """
    if os.path.dirname(link) != f"{PER_USER}/{account.name}" or not _makes_per_user(root):
        return
    above = os.path.join(root, PER_USER.lstrip("/"))
    fs.ensure_directory(above)
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory = walk.open_directory(root_fd, PER_USER)
    finally:
        os.close(root_fd)
    try:
        owner = Account("root", os.geteuid(), os.getegid(), "/", private_group=True)
        refuse_foreign_writers(os.fstat(directory), PER_USER, owner)
        _make_owned(directory, account)
    finally:
        os.close(directory)


def _make_owned(directory: int, account: Account) -> None:
    """The user's directory below `directory`. It is made under another name, so that it is the user's from the moment
    it is there: one that is root's would be refused from then on. An empty one that is root's all the same is given."""
    name = account.name
    if name in os.listdir(directory):
        _give(name, directory, account)
    else:
        fs.remove_temporaries(directory, (name,))
        temporary = f".{name}.tmp-{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(temporary, 0o755, dir_fd=directory)
        try:
            _give(temporary, directory, account)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rmdir(temporary, dir_fd=directory)
            raise
    fs.fsync_directory(directory)


def _give(name: str, directory: int, account: Account) -> None:
    fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if status.st_uid != account.uid and status.st_uid == os.geteuid() and not os.listdir(fd):
            os.fchmod(fd, 0o755)
            os.fchown(fd, account.uid, account.gid)
        os.fsync(fd)
    finally:
        os.close(fd)


def change(account: Account, found: UserProfile, step: Step, root: str = "/") -> Applied:
    """Make the change as the user. RefusedError, with nothing changed, when the profile is not what the step expects;
    after any other error, `restore`."""
    prepare(account, found.link, root)
    return Applied.from_plain(as_user(account, _change, found.link, found.home_link, step.to_plain(), root=root))


def restore(account: Account, found: UserProfile, step: Step, root: str = "/") -> None:
    """Put back, as the user, what was found, ~/.nix-profile included, whatever of the step was done."""
    plain = {"before": found.before.to_plain(), "step": step.to_plain()}
    as_user(account, _restore, found.link, found.home_link, plain, root=root)


def depart(account: Account, link: str, how: Departure, own_home_link: bool, root: str = "/") -> None:
    """Leave the profile to itself, as its user. `own_home_link`: ~/.nix-profile was made by a deployment, and goes when
    what it leads to has gone."""
    as_user(account, _depart, link, how.to_plain(), own_home_link, root=root)


def prune_generations(
    account: Account, link: str, doomed: Sequence[Recorded], keep: Collection[str], root: str = "/"
) -> list[Recorded]:
    """Delete recorded generations as the user; those that went. See prune.remove."""
    return prune.from_plain(as_user(account, _prune, link, prune.to_plain(doomed), sorted(keep), root=root))


# --- in the child -----------------------------------------------------------------------------------------------------


def _read(root: int, account: Account, makes_per_user: bool) -> dict[str, Any]:
    with _home(root, account) as home:
        link, home_link = _find(root, home, account, makes_per_user)
        try:
            with _profile(root, home, account, link, create=False) as generations:
                before, everything = Before.of(generations), generations.list()
        except FileNotFoundError:
            before, everything = _NOTHING, []
    plain = [[one.number, one.path, one.created, one.current, one.link] for one in everything]
    return {"link": link, "home_link": home_link, "before": before.to_plain(), "generations": plain}


def _change(root: int, account: Account, link: str, home_link: str, step: dict[str, Any]) -> dict[str, Any]:
    with _home(root, account) as home, _profile(root, home, account, link, create=True) as generations:
        applied = switching.apply(generations, Step.from_plain(step))
        if home_link and step["to"]:
            _link_home(home, home_link)
    return applied.to_plain()


def _restore(root: int, account: Account, link: str, home_link: str, plain: dict[str, Any]) -> None:
    before, step = Before.from_plain(plain["before"]), Step.from_plain(plain["step"])
    with _home(root, account) as home:
        with contextlib.suppress(FileNotFoundError), _profile(root, home, account, link, create=False) as generations:
            switching.restore(generations, before, step)
        if home_link and _target(home, HOME_LINK, account) == home_link:
            os.unlink(HOME_LINK, dir_fd=home)
            fs.fsync_directory(home)


def _depart(root: int, account: Account, link: str, how: dict[str, Any], own_home_link: bool) -> None:
    with _home(root, account) as home:
        gone = True
        with contextlib.suppress(FileNotFoundError), _profile(root, home, account, link, create=False) as generations:
            switching.depart(generations, Departure.from_plain(how))
            gone = generations.raw_target() is None
        if own_home_link and gone and _target(home, HOME_LINK, account) == link:
            os.unlink(HOME_LINK, dir_fd=home)
            fs.fsync_directory(home)


def _prune(root: int, account: Account, link: str, doomed: list[Any], keep: list[str]) -> list[Any]:
    with _home(root, account) as home:
        with contextlib.suppress(FileNotFoundError), _profile(root, home, account, link, create=False) as generations:
            return prune.to_plain(prune.remove(generations, prune.from_plain(doomed), keep))
        return []


def _link_home(home: int, target: str) -> None:
    """Make ~/.nix-profile. A home that the user may not write to (a service's) goes without: PATH then takes the
    profile from per-user."""
    with contextlib.suppress(FileExistsError, PermissionError):
        os.symlink(target, HOME_LINK, dir_fd=home)
        fs.fsync_directory(home)


@contextlib.contextmanager
def _home(root: int, account: Account) -> Iterator[int]:
    try:
        home = walk.open_directory(root, account.home)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"the home of {account.name}, {account.home}, does not exist") from None
    except PermissionError:
        raise StoreError(f"{account.name} may not enter the home {account.home}") from None
    try:
        refuse_foreign_writers(os.fstat(home), account.home, account, or_root=True)
        yield home
    finally:
        os.close(home)


def _find(root: int, home: int, account: Account, makes_per_user: bool) -> tuple[str, str]:
    """Where the profile is, and where ~/.nix-profile is to lead when it is missing (else empty)."""
    for name in (HOME_LINK, _XDG_LINK):
        target = _target(home, name, account)
        if target is not None:
            link = os.path.normpath(os.path.join(account.home, os.path.dirname(name), target))
            if link.startswith("/nix/store/"):
                raise StoreError(f"{account.home}/{name} leads into the store, not to a profile")
            return link, ""
    link = os.path.join(account.home, _XDG_PROFILE)
    if _target(home, _XDG_PROFILE, account) is None and (makes_per_user or _has_per_user(root, account)):
        link = default_link(account.name)
    return link, link


def _has_per_user(root: int, account: Account) -> bool:
    try:
        os.close(walk.open_directory(root, f"{PER_USER}/{account.name}"))
    except OSError:
        return False
    return True


def _target(home: int, path: str, account: Account) -> str | None:
    """Where the link `path` in the home leads; None when nothing is there. StoreError when it is no link."""
    parent, name = os.path.split(path)
    try:
        directory = walk.open_below(home, parent, account.home)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.readlink(name, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError:
        raise StoreError(f"{account.home}/{path} is not a link", "move it away, then deploy again") from None
    finally:
        os.close(directory)


@contextlib.contextmanager
def _profile(root: int, home: int, account: Account, link: str, create: bool) -> Iterator[Generations]:
    """The profile `link`; its directory must be the user's, and nobody else's to write to."""
    parent, name = os.path.split(link)
    below = os.path.relpath(parent, account.home)
    if below == ".." or below.startswith("../"):
        directory = walk.open_directory(root, parent)
    else:
        directory = walk.open_below(home, "" if below == "." else below, account.home, create)
    try:
        refuse_foreign_writers(os.fstat(directory), parent, account)
        yield Generations(directory, name, link)
    finally:
        os.close(directory)
