"""Small packages for tests: trees in memory, added to a store as sources."""

from __future__ import annotations

from typing import Any

from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import Element, EnvironmentPlan, build_environment, environment
from reconciler.core.profile.toplevel import NAME, toplevel
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store


def tree(content: Any) -> nar.Node:
    """A dict is a directory, a str a file, a tuple with one str a link."""
    if isinstance(content, dict):
        return nar.Directory({name: tree(value) for name, value in content.items()})
    if isinstance(content, tuple):
        return nar.Link(content[0])
    return nar.File(content.encode())


def package(store: Store, name: str, content: Any = None, references: tuple[StorePath, ...] = ()) -> StorePath:
    """Add a package; by default one that holds bin/NAME, without its version."""
    if content is None:
        content = {"bin": {name.partition("-")[0]: f"#!/bin/sh\necho {name}\n"}}
    return store.add_tree(name, tree(content), references)


def realise_environment(store: Store, plan: EnvironmentPlan) -> StorePath:
    """Make an environment valid: what the builtin builder and the registration after it do."""
    store.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
    store.write_derivation(plan.derivation, "user-environment")
    if store.is_valid(plan.output):
        return plan.output
    real = store.real(plan.output)
    build_environment(plan.derivation.environment, store, real)
    store.canonicalise(real)
    hashed, size = nar.hash_path(real)
    references = tuple(sorted({plan.manifest_path, *plan.manifest_references}))
    present = [one for one in references if one.hash_part.encode() in b"".join(nar.dump(real))]
    store.register([PathInfo(plan.output, hashed, size, tuple(present), deriver=plan.drv_path)])
    return plan.output


def make_environment(store: Store, *packages: StorePath) -> StorePath:
    return realise_environment(store, environment([Element(path) for path in packages]))


def make_toplevel(store: Store, *packages: StorePath) -> StorePath:
    """A system profile with these packages, valid in the store."""
    path, node, references = toplevel(make_environment(store, *packages), "x86_64-linux")
    added = store.add_tree(NAME, node, references)
    assert added == path
    return path
