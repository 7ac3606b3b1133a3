"""What the profiles of a host are made of, whoever made them: the system's, Nix's `default` and its like, users'."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from reconciler.core.agent import observe, profiles, recovery
from reconciler.core.agent.host import PROFILES, Host
from reconciler.core.agent.messages import HeldPackage, Holding, HoldingsReply, HoldingsRequest
from reconciler.core.agent.profiles import Found
from reconciler.core.errors import FormatError, ReconcilerError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.nix.systems import system_of
from reconciler.core.profile import environment, toplevel
from reconciler.core.profile.accounts import account_homes
from reconciler.core.profile.generations import generation_number
from reconciler.core.profile.names import ProfileId, place_problem

_IN_HOMES = (".nix-profile", ".local/state/nix/profile", ".local/state/nix/profiles/profile")


def holdings(host: Host, request: HoldingsRequest) -> HoldingsReply:
    """Every profile that has a generation, each place once; changes nothing."""
    found: dict[str, Found] = {}
    for profile in _known(host):
        one = profiles.find(host, profile)
        if (one.before.current is not None or one.problem) and one.link not in found:
            found[one.link] = one
    held = tuple(_holding(host, one) for one in found.values())
    paths = {package.path for each in held for package in each.packages}
    return HoldingsReply(held, system_of(os.uname().machine), _closure(host, paths) if request.closure else ())


def _known(host: Host) -> list[ProfileId]:
    """The system's first, then places, then users: root's own profile may be `default`, and is told once."""
    known = {ProfileId.parse(entry.profile) for entry in recovery.entries(host)} | {ProfileId.SYSTEM}
    known |= {ProfileId(place="default")} | {ProfileId(place=place) for place in _places(host)}
    return sorted(known | {ProfileId(user) for user in _users(host)})


def _places(host: Host) -> Iterator[str]:
    """Other profiles in Nix's own folder."""
    with contextlib.suppress(OSError):
        names = os.listdir(host.path(PROFILES))
        for name in names:
            place = f"{PROFILES}/{name}"
            has_generations = any(generation_number(name, other) is not None for other in names)
            if has_generations and not place_problem(place) and os.path.islink(host.path(place)):
                yield place


def _users(host: Host) -> Iterator[str]:
    for name, home in account_homes(host.root):
        places = [host.path(f"{home}/{link}") for link in _IN_HOMES]
        places.append(host.path(f"{PROFILES}/per-user/{name}/profile"))
        if any(os.path.lexists(place) for place in places):
            yield name


def _holding(host: Host, found: Found) -> Holding:
    profile, current = found.profile, found.current
    note = found.problem or profiles.guard(host, found)
    if note or current is None:
        return Holding(str(profile), found.link, current, note=note)
    try:
        path = StorePath.parse(current.path)
        if profile.is_system and toplevel.is_nixos(host.path(str(path))):
            return Holding(str(profile), found.link, current, note="it is a NixOS system: name it by `nixos`")
        sw = toplevel.sw_of(host.path(str(path))) if profile.is_system else path
        elements = environment.manifest_elements(observe.View(host.path("/nix/store")), sw) if sw else None
    except (OSError, FormatError) as error:
        return Holding(str(profile), found.link, current, note=str(error))
    if elements is None:
        return Holding(str(profile), found.link, current, note="it has no manifest, so nothing tells what is in it")
    packages = tuple(HeldPackage(each.path, each.priority, each.active) for each in elements)
    return Holding(str(profile), found.link, current, packages)


def _closure(host: Host, paths: Iterable[str]) -> tuple[str, ...]:
    """The closure of those paths that are valid."""
    if not host.has_store:
        return ()
    with host.open_store() as store:
        try:
            valid = store.valid(StorePath.parse(path) for path in paths)
            return tuple(str(path) for path in store.closure(sorted(valid)))
        except ReconcilerError:
            return ()
