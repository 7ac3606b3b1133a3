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
    substitute   SubstituteRequest SubstituteReply  the host asks caches by itself; EVENT frames while it fetches
    realise      RealiseRequest    RealiseReply   EVENT frames while it builds
    stage        StageRequest      StageReply     verifies closures, roots them, preflight
    switch       SwitchRequest     SwitchReply    changes profiles, writes history, frees the stage's roots
    generations  ProfilesRequest   GenerationsReply
    history      HistoryRequest    HistoryReply
    log          LogRequest        LogReply       a kept build log
    export       ExportRequest     ExportReply    the agent sends NARs as DATA frames
    holdings     HoldingsRequest   HoldingsReply  what every profile was made of, whoever made it
    leave        LeaveRequest      LeaveReply     undoes the management of the host; with `check` only says how
    collect      CollectRequest    CollectReply   deletes generations and garbage; with `check` only says which; EVENTs
    verify       VerifyRequest     VerifyReply    EVENT frames while it reads
    repair       RepairRequest     RepairReply    the controller sends NARs as DATA frames, one stream a path
    optimise     OptimiseRequest   OptimiseReply  EVENT frames while it links
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
        try:
            return float(value)
        except OverflowError:
            raise FormatError(f"{where}: a number of {value.bit_length()} bits is too large") from None
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
    where that cannot be told. `complete`: the current generation's closure is valid in the host's store. `cut_off`: its
    switch was begun and never ended, so it is to be activated again (nixos_switch).
    `last`: the newest line of the history for this profile; when `current` is not `last.after`, something else
    changed the profile. `undone`: store paths whose latest mention in the history is their rollback (see
    history.undone). `problem`: why this profile cannot be deployed (no such account, a home that is not mounted, a
    profile directory others may write), else empty. `guard`: why what something else put there may never be replaced,
    also when it is adopted (Nix itself lives in it, it is a NixOS system), else empty.
    """

    profile: str
    link: str
    current: Optional[GenerationRef]
    highest: int
    highest_path: str
    packages: tuple[str, ...] = ()
    complete: bool = True
    cut_off: bool = False
    last: Optional[HistoryEntry] = None
    undone: tuple[HistoryEntry, ...] = ()
    problem: str = ""
    guard: str = ""

    @property
    def foreign(self) -> bool:
        """Whether there is something that no deployment of ours has to do with."""
        return self.last is None and self.current is not None

    @property
    def changed_outside(self) -> bool:
        """Whether something other than the reconciler last changed this profile."""
        return self.last is not None and self.last.after != self.current


@value
class ObserveRequest(Message):
    """What to look at: the system profile, those of `users`, those at `places` (`default`, or a path), and every
    profile that the history knows; which of `paths` are valid in the store."""

    users: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


@value
class Observation(Message):
    """What a probe found of one host. Sizes in bytes.

    `system` is Nix's word (`x86_64-linux`). `managed`: a deployment was begun there. `nix`: version of a real Nix on
    the host, else empty. `running` and `booted`: where /run/current-system and /run/booted-system lead, else empty.
    `problems`: what makes the host unfit for any deploy (no sqlite3, /nix read-only, ...), one sentence each.
    `nixos`: the host runs NixOS. `login`: the one user whose profile can be changed, since the store is behind Nix's
    daemon and the login is that user; empty where everything can.
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
    nixos: bool = False
    login: str = ""

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
    """`first`: the host was not managed before. `created`: the paths that were created for it. `collecting`: a garbage
    collection is at work in its store, and what comes next may have to wait for it."""

    first: bool
    created: tuple[str, ...] = ()
    collecting: bool = False


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
class CacheMessage(Message):
    """A binary cache that hosts may ask: its URL, which holds no user and password; the keys that are trusted for it;
    its priority."""

    url: str
    keys: tuple[str, ...]
    priority: int


@value
class SubstituteRequest(Message):
    """Fetch `paths` from `caches`, `jobs` at a time: what is said of each is what the controller has verified."""

    paths: tuple[PathMessage, ...]
    caches: tuple[CacheMessage, ...]
    jobs: int = 8


@value
class SubstituteReply(Message):
    """`fetched`: the paths that are valid now and were not before, `bytes` those of their archives as they are
    unpacked. `failed`: path -> why it could not be had. Paths that are in neither, and were not valid, wait for one
    that failed: ask again when that is there."""

    fetched: tuple[str, ...]
    bytes: int
    failed: dict[str, str] = field(default_factory=dict)


@value
class RealiseRequest(Message):
    """Make the `outputs` valid by building `derivations` (their .drv files are valid already), `jobs` at a time (0: one
    for each of the host's CPUs).

    `keep_going`: builds that fail are told in the reply, when all that does not need them is made; else the first one
    is the answer. `limits`: what each build may use, by the names and in the units of BuildLimits; what is not named
    is as there. `systems`: those beside the host's own that it runs programs of; `features`: what it has of what
    derivations require, None for what every machine is taken to have.
    """

    derivations: tuple[str, ...]
    jobs: int = 1
    keep_failed: bool = False
    keep_going: bool = False
    limits: dict[str, float] = field(default_factory=dict)
    systems: tuple[str, ...] = ()
    features: Optional[tuple[str, ...]] = None


@value
class FailedBuild(Message):
    """Why one derivation could not be built."""

    derivation: str
    message: str
    hint: str = ""


@value
class RealiseReply(Message):
    """`built`: derivations that were built now, not those whose outputs were there. Where some `failed`, the rest is
    empty."""

    built: tuple[str, ...]
    outputs: tuple[PathMessage, ...]
    failed: tuple[FailedBuild, ...] = ()


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
    """Which profiles; of none: the system's, `default`, those of users that have one by us or by Nix, and those that
    the history knows."""

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
    """The closure of `paths`, less those in `have`; their NARs follow as DATA frames in the reply's order. `alone`:
    only `paths` themselves."""

    paths: tuple[str, ...]
    have: tuple[str, ...] = ()
    alone: bool = False


@value
class ExportReply(Message):
    """Sent before the DATA frames."""

    paths: tuple[PathMessage, ...]


# --- what others made, and going away ---------------------------------------------------------------------------------


@value
class HoldingsRequest(Message):
    """`closure`: also name every path that the profiles' packages refer to."""

    closure: bool = False


@value
class HeldPackage(Message):
    """One element of an environment: a store path with its priority. One that is not `active` is in no directory of
    it."""

    path: str
    priority: int
    active: bool = True


@value
class Holding(Message):
    """What one profile is made of. `note`: why nothing of it can be told or taken over, else empty."""

    profile: str
    link: str
    current: Optional[GenerationRef]
    packages: tuple[HeldPackage, ...] = ()
    note: str = ""


@value
class HoldingsReply(Message):
    """`closure`: references before referrers, when it was asked for; less what is not valid."""

    profiles: tuple[Holding, ...]
    system: str
    closure: tuple[str, ...] = ()


@value
class LeavingProfile(Message):
    """What becomes of one profile. `back`: the generation that it goes back to, None where its link goes away or, with
    `kept`, where it stays as it is for that reason. `drops`: the generations of ours that go, by their links' names."""

    profile: str
    link: str
    current: Optional[GenerationRef]
    back: Optional[GenerationRef]
    drops: tuple[str, ...] = ()
    kept: str = ""


@value
class LeaveRequest(Message):
    """Undo the management. `check`: only say what that would be. `expect`: what was said then; RefusedError when it has
    changed since."""

    check: bool
    who: str = ""
    host: str = ""
    expect: tuple[LeavingProfile, ...] = ()


@value
class LeaveReply(Message):
    """`managed`: there is something to undo. `files`: what else goes away, outside of /nix and in it. `nix`: all of
    /nix goes. `kept`: what stays, a sentence each."""

    managed: bool
    profiles: tuple[LeavingProfile, ...] = ()
    files: tuple[str, ...] = ()
    nix: bool = False
    kept: tuple[str, ...] = ()


# --- upkeep -----------------------------------------------------------------------------------------------------------


@value
class PrunedProfile(Message):
    """What goes of one profile's generations. `kept`: how many stay; `goes` is oldest first, each with its age's
    beginning (`created`). `note`: what is at fault where none goes, and why what was asked for stays; else
    empty."""

    profile: str
    link: str
    goes: tuple[Generation, ...] = ()
    kept: int = 0
    note: str = ""


@value
class CollectRequest(Message):
    """Delete generations of the profiles that deployments manage, and then what no root keeps.

    `keep_generations` and `keep_days`: see prune.Retention; with neither no generation goes. `delete`: see prune.Form;
    it stands for both. `system`, `users` and `places`: of which profiles, see names.selects. `check`: only say what
    would go. Else the generations in `expect` go, which was said then, less what has become needed meanwhile.
    """

    check: bool
    who: str = ""
    host: str = ""
    keep_generations: Optional[int] = None
    keep_days: Optional[int] = None
    expect: tuple[PrunedProfile, ...] = ()
    delete: tuple[str, ...] = ()
    system: bool = False
    users: Optional[str] = None
    places: Optional[str] = None


@value
class CollectReply(Message):
    """`managed`: this host is ours to clean. `paths`: how many store paths went (or would), `deleted`: their names, at
    most COLLECTED_NAMES. `freed` bytes; `kept`: how many paths stay."""

    managed: bool
    profiles: tuple[PrunedProfile, ...] = ()
    paths: int = 0
    deleted: tuple[str, ...] = ()
    freed: int = 0
    kept: int = 0


# A reply has its limit, and nobody reads more names.
COLLECTED_NAMES = 10_000


@value
class FindingMessage(Message):
    """See store.verify.Finding; `path` is a store path, or the file that is at fault."""

    path: str
    kind: str
    detail: str
    repairable: bool


@value
class VerifyRequest(Message):
    """`contents`: also read every file. `paths`: only these; of none: everything. With `lenient` what is not valid of
    `paths` is passed over."""

    contents: bool = True
    paths: tuple[str, ...] = ()
    lenient: bool = False


@value
class VerifyReply(Message):
    """`store`: there is one. `findings`: at most FINDINGS of `found`."""

    store: bool
    checked: int = 0
    bytes: int = 0
    found: int = 0
    findings: tuple[FindingMessage, ...] = ()


FINDINGS = 20_000


@value
class RepairRequest(Message):
    """`paths` get the form of a store where their contents are right; with `links` wrong entries of `.links` go. Each
    of `replace` follows as DATA frames and takes the place of what is there. The host's lock is kept from the first
    of these requests until the agent ends."""

    who: str
    host: str = ""
    paths: tuple[str, ...] = ()
    links: bool = False
    replace: tuple[PathMessage, ...] = ()


@value
class RepairReply(Message):
    """`mended`: paths (and entries of `.links`) that are right now. `lacking`: what is registered of those whose
    contents must be brought. `failed`: path -> why nothing can be done about it."""

    mended: tuple[str, ...] = ()
    lacking: tuple[PathMessage, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)


@value
class OptimiseRequest(Message):
    who: str
    host: str = ""


@value
class OptimiseReply(Message):
    """How many files became hard links, and the bytes that this freed. `managed`: this host is ours to work on.
    `skipped`: files that are writable, which no file of a store should be, at most FINDINGS."""

    managed: bool
    files: int = 0
    freed: int = 0
    skipped: tuple[str, ...] = ()
