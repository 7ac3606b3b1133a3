"""What stands under `desired`, as it is written: known keys, each with its kind, and templates not yet rendered.

desired:
  system: ARCHITECTURE
  packages: [PACKAGE, ...]            or one template that evaluates to such a list
  nixos: TOPLEVEL | unmanaged         the host runs NixOS: its system; `packages` are those of the default profile
  keep: {generations: N, days: N}
  build_on: PLACE_OF_BUILDS           controller, target, builders, or a host of the inventory
  substitute_on: controller | target  who fetches from binary caches
  drop: {packages: [NAME, ...], users: [NAME, ...], profiles: [PLACE, ...]}
  users:
    NAME: {packages: [PACKAGE, ...], drop: {packages: [NAME, ...]}}
  profiles:
    PLACE: {packages: [PACKAGE, ...], drop: {packages: [NAME, ...]}}

PLACE      `default`, or the absolute path of a profile
PACKAGE    NAME, NAME@VERSION, SET:NAME, SET:NAME@VERSION, a /nix/store/... path, or {one of these: OPTIONS}
OPTIONS    {priority: N, build_on: PLACE_OF_BUILDS}, or one of the two
TOPLEVEL   FLAKE#NAME, FILE.nix, FILE.nix#ATTRIBUTE, or a /nix/store/... path
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import STORE_DIR, StorePath
from reconciler.core.nix.systems import system_of
from reconciler.core.profile.names import DEFAULT, place_problem
from reconciler.inventory.faults import FaultLog, InputError
from reconciler.inventory.names import did_you_mean, nearest
from reconciler.inventory.outputs import Named
from reconciler.inventory.templates import is_template
from reconciler.inventory.yaml import Mapping, Node, Scalar, Sequence, fail

SYSTEM_KEYS = ("packages", "users", "profiles", "drop", "system", "nixos", "keep", "build_on", "substitute_on")
BUILD_PLACES = ("controller", "target", "builders")
SUBSTITUTE_PLACES = ("controller", "target")
PACKAGE_OPTIONS = ("priority", "build_on")
KEEP_KEYS = ("generations", "days")
USER_KEYS = ("packages", "drop")
ARCHITECTURES = (
    "x86_64-linux",
    "aarch64-linux",
    "i686-linux",
    "armv6l-linux",
    "armv7l-linux",
    "riscv64-linux",
    "powerpc64le-linux",
    "s390x-linux",
    "loongarch64-linux",
)
DEFAULT_ARCHITECTURE = "x86_64-linux"
DEFAULT_PRIORITY = 5
UNMANAGED = "unmanaged"
# What the reference of a toplevel begins with; no package's can.
NIXOS = "nixos#"

_REFERENCE = re.compile(
    r"(?:(?P<set>[A-Za-z0-9_][A-Za-z0-9_.-]*):)?(?P<name>[A-Za-z0-9_+?=][A-Za-z0-9_+?=.-]*)(?:@(?P<version>[A-Za-z0-9_+?=.~-]+))?"
)
_NAME = re.compile(r"[A-Za-z0-9_+?=][A-Za-z0-9_+?=.-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?")
_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)")
# What nixpkgs calls the outputs of a package beside its first.
KEEP_HINT = "keep: {generations: 5, days: 30}, or one of the two"
MOST_KEPT = 1_000_000
_NIXOS_HINT = "nixos: path:./nixos#web01 (a flake), nixos/web01.nix, a /nix/store/... path, or unmanaged"
_REFERENCE_HINT = "a package is name, name@version, set:name or a /nix/store/... path"


@dataclass(frozen=True)
class Wanted:
    """One element of a list of packages."""

    reference: Scalar
    priority: Scalar | None = None
    build_on: Scalar | None = None


@dataclass(frozen=True)
class ProfileBlock:
    """The system's keys, or one user's. `packages` is None where the key is absent, a scalar where it is a template."""

    packages: tuple[Wanted, ...] | Scalar | None = None
    drop_packages: tuple[Scalar, ...] = ()

    @property
    def scalars(self) -> Iterator[Scalar]:
        if isinstance(self.packages, Scalar):
            yield self.packages
        for wanted in self.packages if isinstance(self.packages, tuple) else ():
            yield from filter(None, (wanted.reference, wanted.priority, wanted.build_on))
        yield from self.drop_packages


@dataclass(frozen=True)
class KeepBlock:
    """What `keep` says, in words; at least one of the two is there."""

    generations: Scalar | None = None
    days: Scalar | None = None

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        return tuple(scalar for scalar in (self.generations, self.days) if scalar is not None)


@dataclass(frozen=True)
class Block:
    """One `desired`. `scope` names the place: `group web`, `host web01`."""

    scope: str
    system: ProfileBlock = ProfileBlock()
    architecture: Scalar | None = None
    users: tuple[tuple[Scalar, ProfileBlock], ...] = ()
    drop_users: tuple[Scalar, ...] = ()
    profiles: tuple[tuple[Scalar, ProfileBlock], ...] = ()
    drop_profiles: tuple[Scalar, ...] = ()
    keep: KeepBlock | None = None
    build_on: Scalar | None = None
    substitute_on: Scalar | None = None
    nixos: Scalar | None = None

    @property
    def templated(self) -> bool:
        """Whether it may say something else on another host."""
        return any(is_template(scalar) for scalar in self._scalars)

    @property
    def _scalars(self) -> Iterator[Scalar]:
        yield from self.system.scalars
        if self.architecture is not None:
            yield self.architecture
        for name, profile in (*self.users, *self.profiles):
            yield name
            yield from profile.scalars
        yield from self.drop_users
        yield from self.drop_profiles
        yield from self.keep.scalars if self.keep is not None else ()
        yield from filter(None, (self.build_on, self.substitute_on, self.nixos))


def parse_block(node: Node, scope: str, log: FaultLog) -> Block:
    """The block that a `desired` holds; what is at fault in it is logged and left out."""
    reader = _Reader(scope, log)
    keys = reader.keys(node, "desired", SYSTEM_KEYS)
    drop = reader.keys(keys.get("drop"), "desired.drop", ("packages", "users", "profiles"))
    return Block(
        scope,
        ProfileBlock(reader.packages(keys), reader.names(drop.get("packages"))),
        reader.scalar(keys.get("system"), "system"),
        reader.profiles(keys.get("users"), "desired.users"),
        reader.names(drop.get("users")),
        reader.profiles(keys.get("profiles"), "desired.profiles"),
        reader.names(drop.get("profiles")),
        reader.keep(keys.get("keep")),
        reader.scalar(keys.get("build_on"), "build_on"),
        reader.scalar(keys.get("substitute_on"), "substitute_on"),
        reader.scalar(keys.get("nixos"), "nixos"),
    )


class _Reader:
    def __init__(self, scope: str, log: FaultLog) -> None:
        self._scope = scope
        self._log = log

    def entries(self, node: Node | None, path: str) -> Iterator[tuple[Scalar, Node]]:
        """Keys and values of a mapping that may be absent or empty."""
        if isinstance(node, Mapping):
            for entry in node.entries.values():
                yield entry.key, entry.value
        elif node is not None and not _is_empty(node):
            self._log.add(InputError(node.position, f"{path} of {self._scope} is not a mapping"))

    def keys(self, node: Node | None, path: str, known: tuple[str, ...]) -> dict[str, Node]:
        """The values of the known keys; a fault for each other one."""
        found = {}
        for key, value in self.entries(node, path):
            if key.text in known:
                found[key.text] = value
            else:
                meant = nearest(key.text, known)
                advice = f"did you mean '{meant}'?" if meant else f"known keys: {', '.join(sorted(known))}"
                self._log.add(
                    InputError(key.position, f"unknown key '{key.text}' in {path} of {self._scope}; {advice}")
                )
        return found

    def profiles(self, node: Node | None, path: str) -> tuple[tuple[Scalar, ProfileBlock], ...]:
        """Profiles by name: those of users, or of places."""
        found = []
        for name, value in self.entries(node, path):
            own = self.keys(value, f"{path}.{name.text}", USER_KEYS)
            dropped = self.keys(own.get("drop"), f"{path}.{name.text}.drop", ("packages",))
            found.append((name, ProfileBlock(self.packages(own), self.names(dropped.get("packages")))))
        return tuple(found)

    def scalar(self, node: Node | None, what: str) -> Scalar | None:
        if node is None or isinstance(node, Scalar):
            return node
        self._log.add(InputError(node.position, f"{what} is not one word"))
        return None

    def keep(self, node: Node | None) -> KeepBlock | None:
        if node is None:
            return None
        said = self.keys(node, "desired.keep", KEEP_KEYS)
        block = KeepBlock(self.scalar(said.get("generations"), "generations"), self.scalar(said.get("days"), "days"))
        if block.scalars:
            return block
        if not said and (_is_empty(node) or (isinstance(node, Mapping) and not node.entries)):
            self._log.add(InputError(node.position, f"keep of {self._scope} says nothing", KEEP_HINT))
        return None

    def packages(self, keys: dict[str, Node]) -> tuple[Wanted, ...] | Scalar | None:
        node = keys.get("packages")
        if node is None or (isinstance(node, Scalar) and is_template(node)):
            return node
        wanted = []
        for item in self._items(node, "packages"):
            with self._log.catching():
                wanted.append(read_wanted(item))
        return tuple(wanted)

    def names(self, node: Node | None) -> tuple[Scalar, ...]:
        return tuple(
            item
            for item in (() if node is None else self._items(node, "drop"))
            if self.scalar(item, "a name to drop") is not None and isinstance(item, Scalar)
        )

    def _items(self, node: Node, what: str) -> tuple[Node, ...]:
        if isinstance(node, Sequence):
            return node.items
        if not _is_empty(node):
            self._log.add(
                InputError(node.position, f"{what} is not a list", "write [name, name], or one '- name' a line")
            )
        return ()


def read_wanted(item: Node) -> Wanted:
    """One element of a list of packages; InputError for what cannot be one."""
    if isinstance(item, Scalar):
        return Wanted(item)
    if isinstance(item, Sequence):
        fail(item.position, "a list stands where a package is wanted", _REFERENCE_HINT)
    if len(item.entries) != 1:
        fail(item.position, "one package has one name", "begin each package with its own '- '")
    (entry,) = item.entries.values()
    options = entry.value
    if not isinstance(options, Mapping):
        fail(
            options.position,
            f"the options of '{entry.key.text}' are not a mapping",
            f"{entry.key.text}: {{priority: 4}}",
        )
    for option in options.entries.values():
        if option.key.text not in PACKAGE_OPTIONS:
            hint = did_you_mean(option.key.text, PACKAGE_OPTIONS) or f"known: {', '.join(PACKAGE_OPTIONS)}"
            fail(option.key.position, f"unknown option '{option.key.text}' of package '{entry.key.text}'", hint)
    priority = options.get("priority")
    if priority is not None and not isinstance(priority, Scalar):
        fail(priority.position, "priority is not a whole number")
    build_on = options.get("build_on")
    if build_on is not None and not isinstance(build_on, Scalar):
        fail(build_on.position, "build_on is not one word")
    return Wanted(entry.key, priority, build_on)


def package_name(reference: str, where: Scalar) -> str:
    """The name by which a reference is merged: what stands before '@', without its set; of a store path see
    `store_path_name`."""
    if reference.startswith(STORE_DIR):
        try:
            return store_path_name(StorePath.parse(reference))
        except FormatError as error:
            fail(where.position, error.message)
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        fail(where.position, f"'{reference}' is no package", _REFERENCE_HINT)
    return match["name"]


def store_path_name(path: StorePath) -> str:
    """The name by which a store path is merged: its own without the version; `git-man` for the output of that name."""
    named = Named.of(path)
    return f"{named.name}-{named.output}" if named.output else named.name


def priority_number(text: str, where: Scalar) -> int:
    """A priority: lower wins, as in Nix."""
    if _WHOLE_NUMBER.fullmatch(text) is None:
        fail(where.position, f"priority '{text}' is not a whole number")
    return int(text)


def keep_number(text: str, where: Scalar) -> int:
    """How many generations, or days: at least 1."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_KEPT):
        fail(where.position, f"keep: '{text}' is not a number from 1 to {MOST_KEPT}", KEEP_HINT)
    return int(text)


def dropped_name(text: str, where: Scalar) -> str:
    """A name under `drop`, which has no version."""
    if _NAME.fullmatch(text) is None:
        hint = f"drop '{text.partition('@')[0]}'" if "@" in text else None
        fail(where.position, f"'{text}' is not the name of a package", hint)
    return text


def user_name(text: str, where: Scalar) -> str:
    """The name of an account."""
    if _USER.fullmatch(text) is None or len(text) > 64:
        fail(where.position, f"{text!r} cannot name a user", "a user name has letters, digits, '_', '-', '.' and '@'")
    return text


def place_name(text: str, where: Scalar) -> str:
    """`default`, or the absolute path of a profile."""
    problem = place_problem(text)
    if problem:
        hint = f"write '{DEFAULT}'" if text.endswith(f"/profiles/{DEFAULT}") else None
        fail(where.position, f"{text!r} cannot name a profile: {problem}", hint)
    return text


def architecture_name(text: str, where: Scalar) -> str:
    """A system as Nix names it."""
    if text not in ARCHITECTURES:
        fail(where.position, f"'{text}' is not a system", architecture_hint(text))
    return text


def architecture_hint(text: str) -> str:
    """Which system was meant, also by who calls machines otherwise."""
    meant = system_of(text.removesuffix("-linux"))  # arm64, amd64, x86_64
    known = [meant] if meant in ARCHITECTURES else ARCHITECTURES
    return did_you_mean(meant, known) or f"one of {', '.join(ARCHITECTURES)}"


def build_place(text: str, where: Scalar) -> str:
    """Where packages are built: one word. Whether a host is called so is asked when all hosts are known."""
    if not text or any(character.isspace() for character in text):
        hint = "build_on: controller, target, builders, or a host's name"
        fail(where.position, f"build_on: {text!r} is not a place", hint)
    return text


def substitute_place(text: str, where: Scalar) -> str:
    """Who fetches from binary caches."""
    if text not in SUBSTITUTE_PLACES:
        hint = did_you_mean(text, SUBSTITUTE_PLACES) or f"substitute_on: {' or '.join(SUBSTITUTE_PLACES)}"
        fail(where.position, f"substitute_on: {text!r} is not one of {' and '.join(SUBSTITUTE_PLACES)}", hint)
    return text


def nixos_system(text: str, where: Scalar) -> str:
    """What a NixOS host's system is: a flake's, an expression's, a store path, or none of ours."""
    if text.startswith(STORE_DIR):
        try:
            StorePath.parse(text)
        except FormatError as error:
            fail(where.position, error.message)
        return text
    if text != UNMANAGED and not is_evaluated(text):
        fail(where.position, f"nixos: {text!r} is no NixOS system", did_you_mean(text, [UNMANAGED]) or _NIXOS_HINT)
    return text


def is_evaluated(text: str) -> bool:
    """Whether a text can name a NixOS system that Nix evaluates: a flake's, or an expression's."""
    source, _, name = text.partition("#")
    named = bool(name) or source.endswith(".nix")
    return bool(source) and named and text.isprintable() and " " not in text and text[0] != "-"


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null
