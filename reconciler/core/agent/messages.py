"""What controller and agent say to each other: one frozen value a request and a reply, each with its JSON form.

Every verb of the agent takes one of the requests below and answers with one of the replies. `to_json` gives plain
dicts, lists, strings and numbers; `from_json` reads them strictly (FormatError for a missing or ill-typed field; an
unknown field is ignored, so that a newer peer may say more). Store paths travel as full paths, profiles as
`str(ProfileId)`, times as seconds since the epoch.

    verb         request           reply          also sends
    observe      ObserveRequest    Observation
    begin        BeginRequest      Begun          takes the host's lock until the agent ends
    missing      MissingRequest    MissingReply   adds temporary roots for every path asked about
    import       ImportRequest     ImportReply    the controller sends NARs as DATA frames, one stream a path
    realise      RealiseRequest    RealiseReply   EVENT frames while it builds
    stage        StageRequest      StageReply     verifies closures, roots them, preflight
    switch       SwitchRequest     SwitchReply    changes profiles, writes history, frees the stage's roots
    generations  ProfilesRequest   GenerationsReply
    history      HistoryRequest    HistoryReply
    log          LogRequest        LogReply       a kept build log
    export       ExportRequest     ExportReply    the agent sends NARs as DATA frames
"""

from __future__ import annotations

import typing
from typing import Any, Optional, TypeVar

from reconciler.core.errors import FormatError
from reconciler.core.values import field, fields, value

M = TypeVar("M", bound="Message")


@value
class Message:
    """Base of everything that travels: JSON in and out by the fields' annotations."""

    def to_json(self) -> dict[str, Any]:
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls: type[M], value: object) -> M:
        if not isinstance(value, dict):
            raise FormatError(f"{cls.__name__}: an object was expected, not {type(value).__name__}")
        hints = _hints(cls)
        arguments = {}
        for f in fields(cls):
            if f.name in value:
                arguments[f.name] = _typed(value[f.name], hints[f.name], f"{cls.__name__}.{f.name}")
            elif f.required:
                raise FormatError(f"{cls.__name__}: '{f.name}' is missing")
        return cls(**arguments)


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    # get_type_hints compiles every annotation again at each call; an agent's no-op is measured in milliseconds.
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _typed(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Union:  # Optional[X], as Python 3.9 can evaluate it
        (inner,) = (arm for arm in typing.get_args(hint) if arm is not type(None))
        return None if value is None else _typed(value, inner, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise FormatError(f"{where}: a list was expected")
        return tuple(_typed(item, typing.get_args(hint)[0], where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: an object was expected")
        return {str(key): _typed(item, typing.get_args(hint)[1], where) for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Message):
        return hint.from_json(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise FormatError(f"{where}: {hint.__name__} was expected, not {type(value).__name__}")
    return value


# --- what a host is and has -------------------------------------------------------------------------------------------


@value
class GenerationRef(Message):
    """A recorded generation: its number *and* its store path, since Nix reuses numbers."""

    number: int
    path: str


@value
class Generation(Message):
    """One generation of a profile: `created` is the link's mtime, `packages` as in ProfileState."""

    number: int
    path: str
    created: float
    current: bool
    packages: tuple[str, ...] = ()


@value
class HistoryEntry(Message):
    """One change of one profile, as a line of /nix/var/reconciler/history.

    `kind` is `deploy` or `rollback`; `undoes` is the deployment that a rollback undid. `before` or `after` is None
    where the profile did not exist.
    """

    deployment: str
    kind: str
    who: str
    when: float
    message: str
    profile: str
    before: Optional[GenerationRef]
    after: Optional[GenerationRef]
    undoes: str = ""


@value
class LockOwner(Message):
    """Who holds a host's lock, read from inside the lock file."""

    deployment: str
    who: str
    pid: int
    since: float


@value
class ProfileState(Message):
    """What a probe found of one profile.

    `link`: where the profile stands (`/nix/var/nix/profiles/system`; for a user where ~/.nix-profile points).
    `current`: None when there is no such profile yet. `highest`: the highest generation's number (0: none), and where
    it points, which decides what the next one is called. `packages`: the store paths its environment was made of, empty
    where that cannot be told. `complete`: the current generation's closure is valid in the host's store.
    `last`: the newest line of the history for this profile; when `current` is not `last.after`, something else
    changed the profile. `undone`: store paths whose latest mention in the history is their rollback (see
    history.undone). `problem`: why this profile cannot be deployed (no such account, a home that is not mounted, a
    profile directory others may write), else empty.
    """

    profile: str
    link: str
    current: Optional[GenerationRef]
    highest: int
    highest_path: str
    packages: tuple[str, ...] = ()
    complete: bool = True
    last: Optional[HistoryEntry] = None
    undone: tuple[HistoryEntry, ...] = ()
    problem: str = ""

    @property
    def changed_outside(self) -> bool:
        """Whether something other than the reconciler last changed this profile."""
        return self.last is not None and self.last.after != self.current


@value
class ObserveRequest(Message):
    """What to look at: the system profile, those of `users`, and every profile that the history knows; which of
    `paths` are valid in the store."""

    users: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@value
class Observation(Message):
    """What a probe found of one host. Sizes in bytes.

    `system` is Nix's word (`x86_64-linux`). `managed`: /nix/var/reconciler is there. `nix`: version of a real Nix on
    the host, else empty. `running` and `booted`: where /run/current-system and /run/booted-system lead, else empty.
    `problems`: what makes the host unfit for any deploy (no sqlite3, /nix read-only, ...), one sentence each.
    """

    hostname: str
    machine_id: str
    boot_id: str
    system: str
    os: str
    python: str
    uid: int
    managed: bool
    nix: str
    store_free: int
    store_total: int
    systemd: int
    running: str
    booted: str
    profiles: tuple[ProfileState, ...]
    valid: tuple[str, ...]
    lock: Optional[LockOwner]
    problems: tuple[str, ...] = ()

    def profile(self, name: str) -> ProfileState | None:
        return next((state for state in self.profiles if state.profile == name), None)


# --- one deployment, step by step -------------------------------------------------------------------------------------


@value
class BeginRequest(Message):
    """Take the host's lock for one deployment, creating what a first deployment creates. `host` is what the inventory
    calls this host."""

    deployment: str
    who: str
    message: str
    host: str = ""


@value
class Begun(Message):
    """`first`: the host was not managed before. `created`: the paths that were created for it."""

    first: bool
    created: tuple[str, ...] = ()


@value
class MissingRequest(Message):
    """Which of these are not valid? Every one of them gets a temporary root for as long as the agent runs."""

    paths: tuple[str, ...]


@value
class MissingReply(Message):
    missing: tuple[str, ...]


@value
class PathMessage(Message):
    """What is registered of one store path. `nar_hash` is `sha256:<base-32>`; `ca` as in a narinfo, else empty."""

    path: str
    nar_hash: str
    nar_size: int
    references: tuple[str, ...]
    deriver: str = ""
    signatures: tuple[str, ...] = ()
    ca: str = ""


@value
class ImportRequest(Message):
    """Paths that follow as DATA frames, references before referrers, in this order, `nar_size` bytes each."""

    paths: tuple[PathMessage, ...]


@value
class ImportReply(Message):
    imported: int
    bytes: int


@value
class RealiseRequest(Message):
    """Make the `outputs` valid by building `derivations` (their .drv files are valid already), `jobs` at a time."""

    derivations: tuple[str, ...]
    jobs: int = 1
    keep_failed: bool = False


@value
class RealiseReply(Message):
    """`built`: derivations that were built now, not those whose outputs were there."""

    built: tuple[str, ...]
    outputs: tuple[PathMessage, ...]


@value
class StageRequest(Message):
    """What each profile is to point at. Profiles map `str(ProfileId)` to a store path."""

    deployment: str
    profiles: dict[str, str]


@value
class StageReply(Message):
    """`problems`: profiles that cannot be switched, with the reason (they fail that profile, not the host)."""

    staged: tuple[str, ...]
    problems: dict[str, str] = field(default_factory=dict)


@value
class ProfileChange(Message):
    """One profile's change: from what the plan saw to what is wanted.

    `expect` is what the plan saw (None: no profile); anything else found there is refused. `to` is a store path, or
    empty to remove the profile link, as it was before the first deployment; `number` names a recorded generation to
    go back to (its path must still be `to`), or 0 for Nix's own numbering.
    """

    profile: str
    expect: Optional[GenerationRef]
    to: str
    number: int = 0


@value
class SwitchRequest(Message):
    """All of a host's profile changes; either every one is made or none stands.

    `action` is one of Action's values: switch, boot or test. `kind` and `undoes` go into the history.
    """

    deployment: str
    kind: str
    who: str
    message: str
    action: str
    changes: tuple[ProfileChange, ...]
    undoes: str = ""


@value
class Switched(Message):
    """What one profile is now. `created`: a new generation link was made for it."""

    profile: str
    before: Optional[GenerationRef]
    after: Optional[GenerationRef]
    created: bool


@value
class SwitchReply(Message):
    switched: tuple[Switched, ...]


# --- looking back -----------------------------------------------------------------------------------------------------


@value
class ProfilesRequest(Message):
    """Which profiles: the system's, when empty also those of every user that has one made by us or by Nix."""

    profiles: tuple[str, ...] = ()


@value
class GenerationsReply(Message):
    """By `str(ProfileId)`, oldest first."""

    profiles: dict[str, tuple[Generation, ...]]


@value
class HistoryRequest(Message):
    """The newest `limit` lines, oldest first; of one deployment when it is named."""

    limit: int = 1000
    deployment: str = ""


@value
class HistoryReply(Message):
    entries: tuple[HistoryEntry, ...]


@value
class LogRequest(Message):
    derivation: str
    lines: int = 1000


@value
class LogReply(Message):
    """Empty when no log is kept for it."""

    text: str


@value
class ExportRequest(Message):
    """The closure of `paths`, less those in `have`; their NARs follow as DATA frames in the reply's order."""

    paths: tuple[str, ...]
    have: tuple[str, ...] = ()


@value
class ExportReply(Message):
    """Sent before the DATA frames."""

    paths: tuple[PathMessage, ...]
