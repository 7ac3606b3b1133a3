"""User environments as nix-env makes them: which derivation, and what its builder puts together.

    manifest     [ { meta = { }; name = "a-1.0"; out = { outPath = P; }; outPath = P; outputs = [ "out" ];
                 type = "derivation"; } ... ]        one line, a text path `env-manifest.nix` that refers to every P
    derivation   `user-environment`, builtin:buildenv, whose only input is the manifest; its `derivations` variable is
                 `<active> <priority> <number of outputs> <paths>` for each element, separated by spaces

The plan is pure: a profile's store path is known before anything is built. The builder follows links only inside the
store; what leads out of it counts as dangling, wherever it is built. (So it does in Nix's sandbox, but for the few
files of its own that this holds, such as /etc/passwd and /dev/null.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Callable, NoReturn

from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import StorePath, text_path
from reconciler.core.profile import manifest
from reconciler.core.profile.merging import COLLISION, CollisionError, Sources, StoreView, Tree, label
from reconciler.core.values import value

if TYPE_CHECKING:  # a probe reads environments, and plans none
    from reconciler.core.nix.derivation import Derivation
    from reconciler.core.nix.nar_format import Directory, Node

__all__ = [
    "COLLISION",
    "CollisionError",
    "Element",
    "EnvironmentPlan",
    "StoreView",
    "build_environment",
    "environment",
    "environment_tree",
    "label",
    "manifest_packages",
    "merge",
]

DEFAULT_PRIORITY = 5
NAME = "user-environment"
MANIFEST_NAME = "env-manifest.nix"


@value
class Element:
    """One package of an environment. Of two packages that hold one file, the lower priority's is shown."""

    path: StorePath
    priority: int = DEFAULT_PRIORITY


@value
class EnvironmentPlan:
    """What makes an environment valid: the manifest's text, then the derivation, then `output`."""

    manifest_path: StorePath
    manifest_contents: bytes
    manifest_references: tuple[StorePath, ...]
    derivation: Derivation
    drv_path: StorePath
    output: StorePath


# --- the plan ---------------------------------------------------------------------------------------------------------


def environment(elements: Iterable[Element]) -> EnvironmentPlan:
    """The environment of these packages, in whatever order they come; a path given twice has its lower priority.

    `output` is the store path of `nix-env -ir PATH...` with the paths ordered by name, then path.
    """
    from reconciler.core.nix.derivation import Derivation, Output, with_outputs

    ordered = _ordered(elements)
    references = tuple(sorted(element.path for element in ordered))
    contents = _manifest(ordered)
    manifest_path = text_path(MANIFEST_NAME, contents, references)
    blank = Derivation(
        outputs={"out": Output(None)},
        input_derivations={},
        input_sources=(manifest_path,),
        system="builtin",
        builder="builtin:buildenv",
        arguments=(),
        environment={
            "allowSubstitutes": "",
            "builder": "builtin:buildenv",
            "derivations": " ".join(f"true {element.priority} 1 {element.path}" for element in ordered),
            "manifest": str(manifest_path),
            "name": NAME,
            "out": "",
            "preferLocalBuild": "1",
            "system": "builtin",
        },
    )
    derivation = with_outputs(blank, NAME, _no_inputs)
    output = derivation.outputs["out"].path
    assert output is not None
    return EnvironmentPlan(manifest_path, contents, references, derivation, derivation.path(NAME), output)


def _no_inputs(path: StorePath) -> NoReturn:
    raise AssertionError(f"an environment has no input derivation, and so not {path}")


def _ordered(elements: Iterable[Element]) -> Sequence[Element]:
    wanted: dict[StorePath, int] = {}
    for element in elements:
        wanted[element.path] = min(element.priority, wanted.get(element.path, element.priority))
    return [Element(path, wanted[path]) for path in sorted(wanted, key=lambda path: (path.name, str(path)))]


def _manifest(elements: Sequence[Element]) -> bytes:
    return f"[ {''.join(_manifest_element(element) + ' ' for element in elements)}]".encode()


def _manifest_element(element: Element) -> str:
    meta = "{ }" if element.priority == DEFAULT_PRIORITY else f'{{ priority = "{element.priority}"; }}'
    return (
        f'{{ meta = {meta}; name = "{element.path.name}"; out = {{ outPath = "{element.path}"; }}; '
        f'outPath = "{element.path}"; outputs = [ "out" ]; type = "derivation"; }}'
    )


# --- the builder ------------------------------------------------------------------------------------------------------


@value
class _Package:
    path: StorePath
    active: bool
    priority: int


def build_environment(
    variables: Mapping[str, str], store: StoreView, out: str, warn: Callable[[str], None] = lambda _: None
) -> None:
    """What builtin:buildenv does: fill the directory `out` (its real place; made here) with links into the packages.

    `variables` are the derivation's: `derivations` and `manifest` are read. CollisionError when two packages hold one
    file at one priority; FormatError for variables that are not what nix-env writes. `warn` takes what was left out.
    """
    tree = Tree(Sources(store.store_dir), warn)
    merge(variables, tree)
    tree.write(out)
    os.symlink(variables["manifest"], os.path.join(out, "manifest.nix"))


def environment_tree(
    variables: Mapping[str, str], store: StoreView, warn: Callable[[str], None] = lambda _: None
) -> Directory:
    """The same in memory: for a store, which needs its archive and no directory of somebody's."""
    from reconciler.core.nix.nar_format import Directory, Link

    tree = Tree(Sources(store.store_dir), warn)
    merge(variables, tree)
    entries: dict[str, Node] = {"manifest.nix": Link(variables["manifest"])}
    directories = {"": entries}
    for file in sorted(tree.directories):
        directories[file] = {}
        above, _, name = file.rpartition("/")
        directories[above][name] = Directory(directories[file])
    for file, link in tree.links.items():
        above, _, name = file.rpartition("/")
        directories[above][name] = Link(link.source)
    return Directory(entries)


def merge(variables: Mapping[str, str], tree: Tree) -> None:
    """Add all that the variables name to a tree; what is brought along comes last."""
    packages = _packages(variables.get("derivations", ""))
    if "manifest" not in variables:
        raise FormatError("builtin:buildenv: the variable 'manifest' is missing")
    for package in sorted(packages, key=lambda one: (one.priority, str(one.path))):
        if package.active:
            tree.add(package.path, package.priority)
    tree.add_propagated()


def _packages(text: str) -> list[_Package]:
    words = iter(text.split())
    found = []
    try:
        for active in words:
            priority, outputs = int(next(words)), int(next(words))
            found += [_Package(StorePath.parse(next(words)), active != "false", priority) for _ in range(outputs)]
    except (StopIteration, ValueError) as error:
        raise FormatError("builtin:buildenv: the variable 'derivations' is malformed") from error
    return found


# --- reading one back -------------------------------------------------------------------------------------------------


def manifest_packages(store: StoreView, environment_path: StorePath) -> tuple[StorePath, ...]:
    """The store paths that an environment was made of, by its manifest (nix-env's, `nix profile`'s or ours).

    Empty where there is no manifest, or none that can be understood: other programs write them too.
    """
    try:
        return tuple(StorePath.parse(held.path) for held in manifest_elements(store, environment_path) or ())
    except (OSError, FormatError):
        return ()


def manifest_elements(store: StoreView, environment_path: StorePath) -> list[manifest.Held] | None:
    """The elements of an environment by its manifest, None where it has none. FormatError for one that is not
    understood."""
    sources = Sources(store.store_dir)
    for name, read in (("manifest.nix", manifest.nix_env_elements), ("manifest.json", manifest.nix_profile_elements)):
        found = sources.canonical(f"{environment_path}/{name}")
        if found is not None:
            with open(sources.real(found), "rb") as file:
                return read(file.read(manifest.SIZE_LIMIT + 1))
    return None
