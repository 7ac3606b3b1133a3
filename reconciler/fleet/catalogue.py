"""What package sets offer: searching, one package in detail, and the tree of what a package refers to."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.fleet.project import Project
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.sets import RECIPES
from reconciler.packages import versions
from reconciler.packages.channel import Channel
from reconciler.packages.substitution import closure_lacking


@dataclass(frozen=True)
class Offered:
    """A package that a set has. `versions`: newest first; `text`: what the recipe says of it."""

    set: str
    name: str
    versions: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True)
class Edition:
    """One build of a package: `path` is what the bare name means, None for what is not built yet; `outputs` the names
    of all; `size` the bytes of `path`'s archive."""

    version: str
    system: str
    path: StorePath | None
    outputs: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class Details:
    """Everything that a set says of one package."""

    offered: Offered
    editions: tuple[Edition, ...]
    home: str = ""


@dataclass(frozen=True)
class Branch:
    """A node of a tree of references; what was shown above is `seen`, and its references are not repeated."""

    path: StorePath
    size: int | None
    branches: tuple[Branch, ...] = ()
    seen: bool = False


def search(project: Project, word: str, only: str | None) -> tuple[Offered, ...]:
    """The packages whose name, or whose recipe's description, holds `word`; sets in their order, names sorted."""
    found: list[Offered] = []
    for name in _sets(project, only):
        if name == RECIPES:
            found += _recipes(project, word)
        elif (expressions := project.resolver.expressions.get(name)) is not None:
            known = expressions.names(host_system())
            found += [Offered(name, each, ()) for each in sorted(known) if word.lower() in each.lower()]
        else:
            listed = _channel(project, name).listed.search(word)
            found += [Offered(name, each, tuple(versions.newest_first(listed[each]))) for each in sorted(listed)]
    return tuple(found)


def show(project: Project, reference: str) -> tuple[Details, ...]:
    """What each set that has the package says of it; UsageError when none has."""
    head, colon, rest = reference.partition(":")
    name = (rest if colon else head).partition("@")[0]
    found = [
        details
        for each in _sets(project, head if colon else None)
        if (details := _details(project, each, name)) is not None
    ]
    if not found:
        hint = did_you_mean(name, project.resolver.names()) or f"reconciler packages search {name}"
        raise UsageError(f"there is no package '{name}'", hint)
    return tuple(found)


def tree(project: Project, reference: str, architecture: str) -> Branch:
    """What the package refers to, as this controller's store or its cache knows it; UsageError when neither does."""
    package = project.resolver.resolve(reference, architecture)
    known = _in_store(project, package.output)
    if known is None:
        known = _in_caches(project, package.output)
    if package.output not in known:
        raise UsageError(f"what {reference} refers to is not known before it is built", f"reconciler build {reference}")
    return _branch(package.output, known, set())


def _sets(project: Project, only: str | None) -> tuple[str, ...]:
    known = tuple(dict.fromkeys(each.name for each in project.package_sets.sets))
    if only is None:
        return known
    if only not in known:
        raise UsageError(f"there is no package set '{only}'", did_you_mean(only, known) or f"sets: {', '.join(known)}")
    return (only,)


def _channel(project: Project, name: str) -> Channel:
    return next(channel for channel in project.resolver.channels if channel.name == name)


def _recipes(project: Project, word: str) -> list[Offered]:
    found = []
    for name in project.resolver.names():
        recipe = project.resolver.recipe(name)
        if word.lower() in name.lower() or word.lower() in recipe.description.lower():
            found.append(Offered(RECIPES, name, tuple(versions.newest_first(recipe.versions)), recipe.description))
    return found


def _details(project: Project, chosen: str, name: str) -> Details | None:
    if chosen == RECIPES:
        if name not in project.resolver.names():
            return None
        recipe = project.resolver.recipe(name)
        known = tuple(versions.newest_first(recipe.versions))
        return Details(
            Offered(RECIPES, name, known, recipe.description),
            tuple(Edition(version, "", None) for version in known),
            recipe.home,
        )
    if chosen in project.resolver.expressions:
        return _attribute(project, chosen, name)
    channel = _channel(project, chosen)
    builds = channel.builds(name)
    if not builds:
        return None
    editions = tuple(
        Edition(
            build.version,
            build.system,
            build.main.narinfo.path,
            tuple(sorted(output or "out" for output in build.outputs)),
            build.main.narinfo.nar_size,
        )
        for build in builds
    )
    return Details(Offered(chosen, name, tuple(dict.fromkeys(build.version for build in builds))), editions)


def _attribute(project: Project, chosen: str, name: str) -> Details | None:
    """One attribute of a Nix expression, evaluated for this machine's system."""
    expressions, system = project.resolver.expressions[chosen], host_system()
    if not expressions.has(name, system):
        return None
    package = expressions.package(name, expressions.find(name, None, system, f"{chosen}:{name}"))
    edition = Edition(package.version, system, package.output, tuple(sorted(package.outputs)))
    return Details(Offered(chosen, name, (package.version,)), (edition,))


Known = dict[StorePath, tuple[int, tuple[StorePath, ...]]]


def _in_store(project: Project, path: StorePath) -> Known | None:
    try:
        with Store.open(project.store_root) as store:
            return {info.path: (info.nar_size, info.other_references) for info in store.infos(store.closure([path]))}
    except ReconcilerError:
        return None


def _in_caches(project: Project, path: StorePath) -> Known:
    for caches in project.resolver.everywhere:
        offers = closure_lacking([path], None, caches)
        if path in offers:
            return {
                each: (offer.narinfo.nar_size, tuple(one for one in offer.narinfo.references if one != each))
                for each, offer in offers.items()
            }
    return {}


def _branch(path: StorePath, known: Known, shown: set[StorePath]) -> Branch:
    """The tree below `path`. Each path's references are shown once, so it is no deeper than the closure is large."""
    size, references = known.get(path, (None, ()))
    if path in shown:
        return Branch(path, size, seen=bool(references))
    shown.add(path)
    return Branch(path, size, tuple(_branch(each, known, shown) for each in references))
