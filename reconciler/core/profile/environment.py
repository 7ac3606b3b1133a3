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

import errno
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Callable, NoReturn, Protocol

from reconciler.core.errors import BuildError, FormatError
from reconciler.core.nix.store_path import STORE_DIR, StorePath, parse_drv_name, text_path
from reconciler.core.profile import manifest
from reconciler.core.values import value

if TYPE_CHECKING:  # a probe reads environments, and plans none
    from reconciler.core.nix.derivation import Derivation

DEFAULT_PRIORITY = 5
PROPAGATED_PRIORITY = 1000
NAME = "user-environment"
MANIFEST_NAME = "env-manifest.nix"

# How the message of a CollisionError begins, also where it came over the wire as a BuildError.
COLLISION = "two packages own "

_PREFIX = STORE_DIR + "/"
_LINK_LIMIT = 40
# Useless in an environment, or there in every package of a kind, so that they would always collide.
_LEFT_OUT = (
    "/propagated-build-inputs",
    "/nix-support",
    "/perllocal.pod",
    "/info/dir",
    "/log",
    "/manifest.nix",
    "/manifest.json",
)


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


class CollisionError(BuildError):
    """Two packages hold one file and nothing says whose is meant.

    `file` is relative to the environment; `priority` is the one that both have, None where a priority could not help
    (a file here, a directory there).
    """

    def __init__(self, file: str, first: StorePath, second: StorePath, priority: int | None) -> None:
        self.file = file
        self.first = first
        self.second = second
        self.priority = priority
        names = f"{label(first)} and {label(second)}"
        if priority is None:
            super().__init__(
                f"{COLLISION}{file}, one as a file and one as a directory: {names}",
                "leave one of them out: no priority joins a file and a directory",
            )
        else:
            name, version = parse_drv_name(first.name)
            reference = f"{name}@{version}" if version else name
            super().__init__(
                f"{COLLISION}{file}: {names}\nequal priority {priority}",
                f"- {reference}: {{priority: {priority - 1}}}      lower wins; both stay installed",
            )


def label(path: StorePath) -> str:
    """A package as a collision names it: `gcc 13.2`."""
    name, version = parse_drv_name(path.name)
    return f"{name} {version}" if version else name


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


class StoreView(Protocol):
    """What the builder needs of a store: where its /nix/store really is."""

    @property
    def store_dir(self) -> str: ...


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
    packages = _packages(variables.get("derivations", ""))
    if "manifest" not in variables:
        raise FormatError("builtin:buildenv: the variable 'manifest' is missing")
    os.makedirs(out, exist_ok=True)
    tree = _Tree(store.store_dir, out, warn)
    for package in sorted(packages, key=lambda one: (one.priority, str(one.path))):
        if package.active:
            tree.add(package.path, package.priority)
    tree.add_propagated()
    os.symlink(variables["manifest"], os.path.join(out, "manifest.nix"))


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


@value
class _Owner:
    """Whose link stands somewhere in the tree."""

    package: StorePath
    priority: int


class _Tree:
    """An environment while it grows. Paths here are relative to it; sources are logical store paths."""

    def __init__(self, store_dir: str, out: str, warn: Callable[[str], None]) -> None:
        self._store_dir = store_dir
        self._out = out
        self._warn = warn
        self._owners: dict[str, _Owner] = {}
        self._done: set[StorePath] = set()
        self._postponed: set[StorePath] = set()

    def add(self, package: StorePath, priority: int) -> None:
        if package in self._done:
            return
        self._done.add(package)
        self._merge(str(package), "", _Owner(package, priority))
        listed = self._canonical(f"{package}/nix-support/propagated-user-env-packages")
        if listed is not None:
            with open(self._real(listed), encoding="utf-8", errors="surrogateescape") as file:
                words = file.read().replace("\n", " ").split(" ")
            self._postponed |= {StorePath.parse(word) for word in words if word} - self._done

    def add_propagated(self) -> None:
        """What packages bring along, breadth first, after everything that was asked for by name."""
        priority = PROPAGATED_PRIORITY
        while self._postponed:
            level, self._postponed = self._postponed, set()
            for package in sorted(level):
                self.add(package, priority)
                priority += 1

    def _merge(self, source: str, below: str, owner: _Owner) -> None:
        """Link what the directory `source` holds into the directory `below` of the tree."""
        canonical = self._canonical(source)
        if canonical is None:
            raise BuildError(f"{source} is not in the store")
        try:
            names = sorted(os.listdir(self._real(canonical)))
        except NotADirectoryError:
            self._warn(f"{source} is not a directory: left out of the environment")
            return
        for name in names:
            path = f"{source}/{name}"
            if name.startswith(".") or path.endswith(_LEFT_OUT):
                continue
            kind = self._kind(f"{canonical}/{name}")
            if kind is None:
                self._warn(f"{path} is a dangling link: left out of the environment")
            else:
                self._place(path, os.path.join(below, name), kind == stat.S_IFDIR, owner)

    def _place(self, source: str, file: str, is_directory: bool, owner: _Owner) -> None:
        target = os.path.join(self._out, file)
        present = _lstat_format(target)
        if present is None:
            pass
        elif is_directory:
            if present == stat.S_IFLNK:
                self._open_up(file, owner)
            self._merge(source, file, owner)
            return
        elif present == stat.S_IFDIR:
            raise CollisionError(file, self._any_owner(file), owner.package, None)
        else:
            previous = self._owners[file]
            if previous.priority == owner.priority:
                raise CollisionError(file, previous.package, owner.package, owner.priority)
            if previous.priority < owner.priority:
                return
            os.unlink(target)
        os.symlink(source, target)
        self._owners[file] = owner

    def _open_up(self, file: str, owner: _Owner) -> None:
        """Put a real directory, with its entries linked one by one, where one link led to a whole directory."""
        target = os.path.join(self._out, file)
        previous = self._owners[file]
        linked = self._canonical(os.readlink(target))
        if linked is None or _lstat_format(self._real(linked)) != stat.S_IFDIR:
            raise CollisionError(file, previous.package, owner.package, None)
        os.unlink(target)
        os.mkdir(target)
        self._merge(linked, file, previous)

    def _any_owner(self, directory: str) -> StorePath:
        return next(owner.package for file, owner in self._owners.items() if file.startswith(directory + "/"))

    # --- links, followed inside the store only ------------------------------------------------------------------------

    def _real(self, logical: str) -> str:
        return os.path.join(self._store_dir, logical[len(_PREFIX) :])

    def _kind(self, logical: str) -> int | None:
        """The file type behind `logical`, links followed; None when it leads nowhere, or out of the store."""
        kind = _lstat_format(self._real(logical))
        if kind != stat.S_IFLNK:
            return kind
        canonical = self._canonical(logical)
        return None if canonical is None else _lstat_format(self._real(canonical))

    def _canonical(self, logical: str) -> str | None:
        """`logical` with every link in it followed; None when it leads nowhere, or out of the store."""
        done: list[str] = []
        todo = _components(logical)
        links = 0
        while todo:
            name = todo.pop()
            if name == "..":
                if not done:
                    return None
                done.pop()
                continue
            path = _PREFIX + "/".join([*done, name])
            kind = _lstat_format(self._real(path))
            if kind is None:
                return None
            if kind != stat.S_IFLNK:
                done.append(name)
                continue
            links += 1
            if links > _LINK_LIMIT:
                raise BuildError(f"{logical}: {os.strerror(errno.ELOOP)}")
            target = os.readlink(self._real(path))
            if target.startswith("/"):
                if not target.startswith(_PREFIX):
                    return None
                done = []
                todo += _components(target)
            else:
                todo += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        return _PREFIX + "/".join(done) if done else None


def _components(logical: str) -> list[str]:
    """The path below the store, last component first."""
    return [part for part in reversed(logical[len(_PREFIX) :].split("/")) if part not in ("", ".")]


def _lstat_format(path: str) -> int | None:
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


# --- reading one back -------------------------------------------------------------------------------------------------


def manifest_packages(store: StoreView, environment_path: StorePath) -> tuple[StorePath, ...]:
    """The store paths that an environment was made of, by its manifest (nix-env's, `nix profile`'s or ours).

    Empty where there is no manifest, or none that can be understood: other programs write them too.
    """
    tree = _Tree(store.store_dir, "", lambda _: None)
    for name, read in (("manifest.nix", manifest.nix_env_paths), ("manifest.json", manifest.nix_profile_paths)):
        found = tree._canonical(f"{environment_path}/{name}")
        if found is None:
            continue
        try:
            with open(tree._real(found), "rb") as file:
                return tuple(StorePath.parse(path) for path in read(file.read(manifest.SIZE_LIMIT + 1)))
        except (OSError, FormatError):
            return ()
    return ()
