"""Builds on a host of the inventory's choice: derivations and sources travel there, outputs come back.

The host builds with the rights of its agent, for nobody in particular: nothing is deployed to it, no profile of it
changes, and it need not be one of those that are deployed to. What it sends is taken into this controller's store as
outputs of the derivations that it was given, and as nothing else: any other path is refused, hash, size, content
address and references are found out here, from the bytes, and what the host says has to agree. That a build has done
what its derivation says, the host is trusted with, as every builder is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from reconciler.core.agent.messages import (
    ExportRequest,
    MissingRequest,
    ObserveRequest,
    PathMessage,
    RealiseRequest,
)
from reconciler.core.agent.paths import from_message, to_message
from reconciler.core.build.events import BuildEvent, BuildLimits
from reconciler.core.build.machine import USUAL_FEATURES
from reconciler.core.build.realise import BuildsError
from reconciler.core.build.references import Scanner
from reconciler.core.errors import BuildError, FormatError, ReconcilerError, StoreError, UnreachableError
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.batch import Batch
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from reconciler.fleet.choosing import Maker
from reconciler.fleet.project import Project
from reconciler.fleet.repair_sources import Spool
from reconciler.fleet.session import Session, as_ours

# The builder needs room for what it gets, and for the database and directories that come with it.
_ROOM_FACTOR = 1.05


@dataclass(frozen=True)
class Order:
    """What a builder is sent, and what may come back.

    derivations  by their .drv path: those that are to be built, and all that they need
    needed       by wanted derivation: those that are to be built for it, itself included
    inputs       outputs that are here already and go along, so that nobody builds them again
    """

    derivations: Mapping[StorePath, Derivation]
    needed: Mapping[StorePath, frozenset[StorePath]]
    inputs: frozenset[StorePath]

    @property
    def makers(self) -> dict[StorePath, StorePath]:
        """The derivation that makes each output that may come back."""
        return {output: path for path in self.to_build for output in self.derivations[path].output_paths().values()}

    @property
    def to_build(self) -> frozenset[StorePath]:
        return frozenset(path for needed in self.needed.values() for path in needed)


def order(store: Store, wanted: Sequence[StorePath]) -> Order:
    """The order for `wanted`, derivations that are valid in `store`; what is valid there is not built again."""
    derivations: dict[StorePath, Derivation] = {}
    inputs: set[StorePath] = set()

    def needs(path: StorePath) -> frozenset[StorePath]:
        found: set[StorePath] = set()
        todo = [path]
        while todo:
            each = todo.pop()
            if each in found:
                continue
            found.add(each)
            derivation = derivations.setdefault(each, store.read_derivation(each))
            for other, names in derivation.input_derivations.items():
                known = derivations.setdefault(other, store.read_derivation(other)).output_paths()
                outputs = {known[name] for name in names if name in known}
                if store.valid(outputs) == outputs:
                    inputs.update(outputs)
                else:
                    todo.append(other)
        return frozenset(found)

    needed = {path: needs(path) for path in wanted}
    return Order(derivations, needed, frozenset(inputs))


class NotHereError(BuildError):
    """This builder cannot make it, and another one might."""


@dataclass
class Builder:
    """A host that builds for this run. A context manager: the login ends with it.

    It is logged in to when the first build is due. A builder that could not be reached, or was lost, is not tried
    again: each further build fails with the same words.
    """

    session: Session
    jobs: int = 0
    keep_failed: bool = False
    limits: BuildLimits = field(default_factory=BuildLimits)
    systems: tuple[str, ...] = ()
    features: tuple[str, ...] = USUAL_FEATURES
    _lost: BuildError | None = None

    @classmethod
    def of(
        cls,
        project: Project,
        maker: Maker,
        jobs: int = 0,
        keep_failed: bool = False,
    ) -> Self:
        """`jobs`: builds at a time; 0: one for each CPU of the builder."""
        session = Session(maker.name, project.inventory.connection(maker.name), project.connect)
        return cls(session, jobs, keep_failed, project.settings.builds, maker.runs, maker.features)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    @property
    def host(self) -> str:
        return self.session.host

    @property
    def lost(self) -> bool:
        """Whether it cannot be used any more in this run."""
        return self._lost is not None

    def make(self, store: Store, wanted: Sequence[StorePath], heard: Callable[[BuildEvent], None]) -> None:
        """Make the outputs of derivations valid in `store`. BuildsError for those that could not be built, when all
        others are made; BuildError when the builder cannot be used."""
        if wanted:
            with self._used():
                self._make(store, wanted, heard)

    def ready(self) -> None:
        """Log in, where that has not been done. BuildError when the builder cannot be used."""
        with self._used():
            self._log_in()

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        if self._lost is not None:
            raise self._lost
        try:
            yield
        except BuildError:
            raise
        except Exception as error:
            told = as_ours(error, self.host)
            self.session.close()
            if isinstance(error, OSError):
                raise  # this controller's own disk, above all
            self._lost = BuildError(f"{self._words(told)}: {told.message}", told.hint)
            raise self._lost from error

    def _words(self, error: ReconcilerError) -> str:
        reached = self.session.observation is not None
        if not isinstance(error, UnreachableError):
            return f"the builder {self.host} failed"
        return f"the builder {self.host} was lost" if reached else f"the builder {self.host} cannot be reached"

    def _make(self, store: Store, wanted: Sequence[StorePath], heard: Callable[[BuildEvent], None]) -> None:
        self._log_in()
        placed = order(store, wanted)
        errors = self._refused(placed)
        able = [path for path in wanted if path not in errors]
        if able:
            placed = order(store, able)
            self._send(store, placed)
            errors |= self._build(able, heard)
            self._fetch(store, placed, [path for path in able if not placed.needed[path] & errors.keys()])
        if errors:
            raise BuildsError(errors)

    def _log_in(self) -> None:
        if self.session.client is None:
            self.session.probe(ObserveRequest())
        assert self.session.observation is not None
        observed = self.session.observation
        problems = observed.problems
        if observed.login:
            problems = (f"the login is {observed.login}, from whom its Nix daemon takes no inputs that nobody signed",)
        if problems:
            self._lost = BuildError(
                f"the builder {self.host} is not fit: {problems[0]}", f"reconciler doctor --hosts {self.host}"
            )
            raise self._lost

    def _refused(self, placed: Order) -> dict[StorePath, BuildError]:
        """What this builder cannot build since it is of another system, by wanted derivation."""
        assert self.session.observation is not None
        own = (self.session.observation.system, *self.systems)
        errors: dict[StorePath, BuildError] = {}
        for wanted, needed in placed.needed.items():
            for path in sorted(needed):
                system = placed.derivations[path].system
                if system not in (*own, "builtin"):
                    errors[wanted] = NotHereError(
                        f"{path.name.removesuffix('.drv')} is to be built on {system}, "
                        f"and the builder {self.host} is {own[0]}",
                        f"build_on, or --build-on, names a host that is {system}; reconciler.yml says what a builder "
                        f"is:  builders: [{self.host}: {{system: {own[0]}}}]",
                    )
        return errors

    # --- there --------------------------------------------------------------------------------------------------------

    def _send(self, store: Store, placed: Order) -> None:
        """Send derivations, sources and inputs, as far as the builder lacks them."""
        agent = self.session.agent
        closure = store.closure([*placed.needed, *placed.inputs])
        store.add_temp_roots(closure)
        outputs = tuple(map(str, placed.makers))
        # The outputs are asked about too: what is there, and what will be, is kept from a collection beside us.
        lacking = set(agent.missing(MissingRequest((*map(str, closure), *outputs))).missing)
        infos = [to_message(info) for info in store.infos(closure) if str(info.path) in lacking]
        total = sum(info.nar_size for info in infos)
        assert self.session.observation is not None
        if total * _ROOM_FACTOR > self.session.observation.store_free:
            raise BuildError(
                f"{self.host}: {total / 2**20:.1f} MiB are needed for its builds, and "
                f"{self.session.observation.store_free / 2**20:.1f} MiB are free",
                hint="make room on the file system of its /nix",
            )
        if infos:
            agent.import_paths(infos, lambda path: store.nar(StorePath.parse(path)))

    def _build(self, wanted: Sequence[StorePath], heard: Callable[[BuildEvent], None]) -> dict[StorePath, BuildError]:
        """Have derivations built; those that failed, which may be inputs of those wanted."""

        def tell(event: Mapping[str, object]) -> None:
            kind, derivation, detail = (str(event.get(key, "")) for key in ("kind", "derivation", "detail"))
            heard(BuildEvent(kind, derivation, detail))

        request = RealiseRequest(
            tuple(map(str, wanted)),
            self.jobs,
            self.keep_failed,
            keep_going=True,
            limits=self.limits.by_name(),
            systems=self.systems,
            features=self.features,
        )
        try:
            reply = self.session.agent.realise(request, tell)
        except BuildError as error:
            raise self._told(error) from error
        return {
            StorePath.parse(one.derivation): self._told(BuildError(one.message, one.hint or None))
            for one in reply.failed
        }

    def _told(self, error: BuildError) -> BuildError:
        return BuildError(
            error.message, f"on {self.host}: {error.hint}" if error.hint else f"it was built on {self.host}"
        )

    # --- and back -----------------------------------------------------------------------------------------------------

    def _fetch(self, store: Store, placed: Order, made: Sequence[StorePath]) -> None:
        """Take the outputs of `made`, and what they need at run time, into the store."""
        outputs = [path for drv in made for path in placed.derivations[drv].output_paths().values()]
        lacking = [path for path in outputs if not store.is_valid(path)]
        if not lacking:
            return
        allowed = self._allowed(store, placed)
        have = tuple(map(str, sorted(store.valid(allowed))))
        with contextlib.closing(Incoming(store, placed, allowed, self.host)) as incoming:
            self.session.agent.export(ExportRequest(tuple(map(str, lacking)), have), incoming)
        missing = [path for path in lacking if not store.is_valid(path)]
        if missing:
            raise FormatError(f"it did not send {missing[0]}, which it said it had built")

    @staticmethod
    def _allowed(store: Store, placed: Order) -> frozenset[StorePath]:
        """All that an output can refer to: what its builds could see, and each other."""
        known = {path for path in store.closure([*placed.needed, *placed.inputs]) if not path.is_derivation}
        return frozenset(known | placed.makers.keys())


class Incoming:
    """The sink of an export from a builder: each path is checked as a whole, then registered."""

    def __init__(self, store: Store, placed: Order, allowed: Iterable[StorePath], host: str) -> None:
        self._store = store
        self._placed = placed
        self._makers = placed.makers
        self._allowed = frozenset(allowed)
        self._have = store.valid(self._makers)
        self._taken: set[StorePath] = set()
        self._host = host
        self._batch: Batch = store.batch()
        self._info: PathInfo | None = None
        self._spool: Spool | None = None
        self._scanner = Scanner(())

    def begin(self, path: PathMessage) -> None:
        info = from_message(path)
        if info.path not in self._makers or info.path in self._have or info.path in self._taken:
            raise StoreError(f"it sent {info.path}, which it was not asked for")
        free = os.statvfs(self._store.store_dir)
        if info.nar_size > free.f_bavail * free.f_frsize:
            raise StoreError(f"{info.path}: it announced {info.nar_size} bytes, for which there is no room here")
        self._taken.add(info.path)
        self._info = self._described(info)
        self._spool = Spool(path)
        self._scanner = Scanner(self._allowed)

    def _described(self, info: PathInfo) -> PathInfo:
        """What will be registered: of what the builder said, hash, size and references, which are checked."""
        maker = self._makers[info.path]
        fixed = self._placed.derivations[maker].fixed_output
        ca = ""
        if fixed is not None:
            ca = f"fixed:{'r:' if fixed.recursive else ''}{fixed.content_hash.nix}"
        return replace(info, deriver=maker, signatures=(), ca=ca)

    def write(self, data: bytes) -> None:
        assert self._spool is not None
        self._spool.write(data)
        self._scanner.feed(data)

    def end(self, _: PathMessage) -> None:
        assert self._spool is not None
        assert self._info is not None
        info, found = self._info, self._scanner.found
        try:
            archive = self._spool.archive(self._host)
        except StoreError as error:
            raise StoreError(f"{info.path}: {error.message}") from error
        if found != info.references:
            other = next(iter(set(found) ^ set(info.references)))
            said = "does not say" if other in found else "says"
            raise StoreError(f"{info.path}: it {said} that this refers to {other}, and the contents are otherwise")
        self._batch.add_nar(info, nar.ChunkReader(archive.chunks()))
        self._spool.close()
        self._spool = None

    def close(self) -> None:
        """Register what came whole, also when the rest did not come."""
        if self._spool is not None:
            self._spool.close()
        self._batch.commit()
