"""What the inventory says of one host, merged and typed: the values that the rest of the program works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.profile.names import ProfileId
from reconciler.core.profile.prune import Retention


@dataclass(frozen=True, order=True)
class Position:
    """Where something stands: a file as the user would type it, line and column counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Origin:
    """Where an entry came from. `scope` is `group web`, `host web01`, ... ; `replaces` is what it took the place of,
    nearest first, each with the text that it had there."""

    position: Position
    scope: str
    text: str
    replaces: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class PackageEntry:
    """One wanted package: `name` is the key of the merge rule, `reference` what is resolved (`nginx@1.24`), `build_on`
    where it is built, empty where the host's place counts."""

    name: str
    reference: str
    origin: Origin
    priority: int = 5
    build_on: str = ""


@dataclass(frozen=True)
class ProfileSpec:
    """The packages of one profile, by name. `nixos`: it is a NixOS system, the one entry there is."""

    packages: Mapping[str, PackageEntry] = field(default_factory=dict)
    nixos: bool = False


@dataclass(frozen=True)
class DesiredState:
    """What one host shall hold. `system` is None where the inventory leaves the host's system alone; `places` are the
    profiles called `default`, and those at a path. `nixos`: what the inventory says of a NixOS host's system, whose
    packages are those of the `default` profile; empty for any other host.
    `keep`: how many generations of each, None where nothing is said.
    `build_on`: `controller`, `target`, `builders` or a host, empty where nothing is said.
    `substitute_on`: who fetches from caches, `controller` or `target`, empty where nothing is said.
    `architecture_origin`: where `architecture` was said, None where it was not."""

    host: str
    architecture: str
    system: ProfileSpec | None
    users: Mapping[str, ProfileSpec] = field(default_factory=dict)
    places: Mapping[str, ProfileSpec] = field(default_factory=dict)
    keep: Retention | None = None
    build_on: str = ""
    substitute_on: str = ""
    nixos: str = ""
    architecture_origin: Origin | None = None

    @property
    def profiles(self) -> Mapping[ProfileId, ProfileSpec]:
        """The system's profile first, then those at places, then the users' by name."""
        found: dict[ProfileId, ProfileSpec] = {}
        if self.system is not None:
            found[ProfileId.SYSTEM] = self.system
        found |= {ProfileId(place=name): self.places[name] for name in sorted(self.places)}
        return found | {ProfileId(name): self.users[name] for name in sorted(self.users)}


@dataclass(frozen=True)
class ConnectionSettings:
    """How a host is reached: Ansible's connection variables, typed. None or empty: what ~/.ssh/config says."""

    host: str
    connection: str = "ssh"
    address: str | None = None
    port: int | None = None
    user: str | None = None
    private_key_file: str | None = None
    common_args: tuple[str, ...] = ()
    python: str | None = None
    become: bool = False
    become_user: str = "root"
    become_method: str = "sudo"
    timeout: float = 10.0
