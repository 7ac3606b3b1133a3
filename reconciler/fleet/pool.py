"""Makes derivations on this controller and on the builders, each where its place says, side by side.

The graph is taken apart: what only the controller can make, and what only one host that reconciler.yml does not list,
is handed over as a whole as soon as nothing else has to be made before it, since these order it themselves. Everything
else goes derivation by derivation to the builder that is least loaded, up to as many at a time as the builder has jobs.
When a builder cannot be used, others that can make what it had take it over.

Each piece of work has a thread, a connection to the store and, on a builder, a login of its own.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from reconciler.core.build.events import BuildEvent, BuildOptions
from reconciler.core.build.realise import BuildsError, realise
from reconciler.core.errors import BuildError, InternalError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.fleet.choosing import ANYWHERE, CONTROLLER, Maker, Makers, choose, spread, why_nobody
from reconciler.fleet.events import Observer
from reconciler.fleet.project import Project

if TYPE_CHECKING:
    from reconciler.fleet.builders import Builder

Heard = Callable[[str], Callable[[BuildEvent], None]]


@dataclass
class Pool:
    """What may build in a run. A context manager: logins end with it.

    `places`: where derivations are made that packages of the inventory are, as choosing.py says, the first where it
    can be; `otherwise`: all others that are asked for. `jobs`: builds at a time here, and on hosts that reconciler.yml
    does not list (None: one for each CPU of whoever builds). `notes`: what went wrong and was got over, for the report.
    """

    project: Project
    makers: Makers
    observer: Observer
    places: Mapping[StorePath, tuple[str, ...]] = field(default_factory=dict)
    otherwise: str = ANYWHERE
    jobs: int | None = None
    keep_failed: bool = False
    notes: list[str] = field(default_factory=list)
    _idle: dict[str, list[Builder]] = field(default_factory=dict)
    _all: list[Builder] = field(default_factory=list)
    _lost: dict[str, BuildError] = field(default_factory=dict)
    _closed: bool = False
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _logins: dict[str, threading.Lock] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every login; what is being built there ends with it."""
        with self._guard:
            self._closed = True
            builders, self._all = self._all, []
            self._idle.clear()
        for builder in builders:
            builder.session.close()

    def make(self, store: Store, wanted: Sequence[StorePath], heard: Heard) -> None:
        """Make the outputs of derivations valid in `store`. BuildsError for those that could not be built, when all
        others are made. `heard`: what takes the events of builds that are made `here` or on a host."""
        placed = {path: self.places.get(path, (self.otherwise,)) for path in wanted}
        goals = spread(placed, store.read_derivation, lambda path: not store.is_valid(path))
        made = {path: store.read_derivation(path) for path in goals}
        # What comes back from one builder is kept until the next has got it.
        store.add_temp_roots([*made, *(output for each in made.values() for output in each.output_paths().values())])
        options = [self.makers.options(made[path], places) for path, places in goals.items()]
        if all(each[:1] == ((self.makers.controller,),) for each in options):
            self.here(store, [path for path in wanted if path in goals], heard, lambda: False)
        else:
            _Run(self, store, goals, heard).all(frozenset(wanted))

    # --- for one piece of work, in its thread -------------------------------------------------------------------------

    def here(self, store: Store, wanted: Sequence[StorePath], heard: Heard, stopped: Callable[[], bool]) -> None:
        """Make derivations on this controller."""
        options = BuildOptions(
            self.jobs or os.cpu_count() or 1,
            keep_going=True,
            keep_failed=self.keep_failed,
            limits=self.project.settings.builds,
            machine=self.makers.controller.machine,
            on_event=heard("here"),
            cancelled=stopped,
        )
        realise(store, wanted, options)

    def on(self, maker: Maker, store: Store, wanted: Sequence[StorePath], heard: Heard) -> None:
        """Make derivations on a builder."""
        builder = self._idle_builder(maker) or self._another(maker)
        started: dict[str, None] = {}
        tell = heard(maker.name)

        def told(event: BuildEvent) -> None:
            if event.kind == "start":
                started[event.derivation] = None
            elif event.kind in ("done", "failed"):
                started.pop(event.derivation, None)
            tell(event)

        try:
            builder.make(store, wanted, told)
        except BuildError as error:
            for derivation in started:  # nobody else says that these ended
                tell(BuildEvent("failed", derivation, error.message.split("\n", 1)[0]))
            if builder.lost:
                self._is_lost(maker, error)
            raise
        finally:
            with self._guard:
                self._idle.setdefault(maker.name, []).append(builder)

    def _idle_builder(self, maker: Maker) -> Builder | None:
        with self._guard:
            if maker.name in self._lost:
                raise self._lost[maker.name]
            return self._idle[maker.name].pop() if self._idle.get(maker.name) else None

    def _another(self, maker: Maker) -> Builder:
        """One more login to a builder."""
        from reconciler.fleet.builders import Builder

        builder = Builder.of(self.project, maker, 1 if maker.listed else self.jobs or 0, self.keep_failed)
        with self._guard:
            if self._closed:
                raise BuildError("the builds were cancelled")
            self._all.append(builder)
            door = self._logins.setdefault(maker.name, threading.Lock())
        with door:  # an sshd lets in few at a time that have not shown yet who they are
            with self._guard:
                if maker.name in self._lost:
                    raise self._lost[maker.name]
            try:
                builder.ready()
            except BuildError as error:
                self._is_lost(maker, error)
                raise
        return builder

    def _is_lost(self, maker: Maker, error: BuildError) -> None:
        with self._guard:
            self._lost.setdefault(maker.name, error)

    def lost(self) -> Mapping[str, BuildError]:
        """The builders that cannot be used any more, and why."""
        with self._guard:
            return dict(self._lost)


@dataclass(frozen=True)
class _Work:
    """What is handed to one maker: `asked` of it, and all that is made with that."""

    maker: Maker
    asked: tuple[StorePath, ...]
    parts: frozenset[StorePath]


@dataclass(frozen=True)
class _Done:
    work: _Work
    error: BaseException | None


class _Run:
    """One graph."""

    def __init__(self, pool: Pool, store: Store, goals: Mapping[StorePath, tuple[str, ...]], heard: Heard) -> None:
        self._pool = pool
        self._store = store
        self._heard = heard
        self._derivations: dict[StorePath, Derivation] = {path: store.read_derivation(path) for path in goals}
        self._needs = {
            path: {other for other in made.input_derivations if other in goals}
            for path, made in self._derivations.items()
        }
        self._needed_by: dict[StorePath, set[StorePath]] = {path: set() for path in goals}
        for path, needs in self._needs.items():
            for other in needs:
                self._needed_by[other].add(path)
        self._options = {path: pool.makers.options(self._derivations[path], places) for path, places in goals.items()}
        self._failures: dict[StorePath, BuildError] = {}
        self._waiting = set(goals)
        self._single: set[StorePath] = set()
        self._busy: Counter[str] = Counter()
        self._ended: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self._stop = threading.Event()
        for path, places in goals.items():
            if not self._options[path]:
                text, hint = why_nobody(self._derivations[path], _label(path), places[0], pool.makers)
                self._fail(path, BuildError(text, hint))
        self._drop()

    def all(self, wanted: frozenset[StorePath]) -> None:
        with ThreadPoolExecutor(self._most_at_once(), "make") as threads:
            try:
                while True:
                    for work in self._ready(wanted):
                        threads.submit(self._do, work)
                    if not sum(self._busy.values()):
                        break
                    self._finish(self._ended.get())
            except BaseException:
                self._stop.set()
                self._pool.close()
                raise
        if self._waiting:
            raise InternalError(f"nobody was given {', '.join(sorted(map(_label, self._waiting)))} to build")
        if self._failures:
            raise BuildsError(self._failures)

    def _most_at_once(self) -> int:
        makers = {maker.name: maker for options in self._options.values() for able in options for maker in able}
        return max(1, min(len(self._options), sum(max(maker.jobs, 1) for maker in makers.values())))

    def _able(self, path: StorePath) -> tuple[Maker, ...]:
        """Those that may build a derivation now: of its first place where somebody can still be used."""
        lost = self._pool.lost()
        for able in self._options[path]:
            if left := tuple(maker for maker in able if maker.name not in lost):
                return left
        return ()

    # --- what is next -------------------------------------------------------------------------------------------------

    def _ready(self, wanted: frozenset[StorePath]) -> Iterable[_Work]:
        """What can be begun now, taken off what waits."""
        for path in sorted(self._waiting):
            if path not in self._waiting:
                continue
            able = self._able(path)
            whole = able[0] if len(able) == 1 and not able[0].listed and path not in self._single else None
            if whole is not None:
                if not self._busy[whole.name] and (work := self._batch(whole, wanted)) is not None:
                    yield self._begin(work)
            elif not self._needs[path] and (maker := choose(able, self._busy)) is not None:
                yield self._begin(_Work(maker, (path,), frozenset((path,))))

    def _batch(self, maker: Maker, wanted: frozenset[StorePath]) -> _Work | None:
        """All that `maker` alone can make and that needs nothing of others before."""
        parts = {path for path in self._waiting if self._able(path) == (maker,) and path not in self._single}
        while True:
            blocked = {path for path in parts if not self._needs[path] <= parts}
            if not blocked:
                break
            parts -= blocked
        asked = tuple(sorted(path for path in parts if path in wanted or not self._needed_by[path] <= parts))
        return _Work(maker, asked, frozenset(parts)) if parts else None

    def _begin(self, work: _Work) -> _Work:
        self._waiting -= work.parts
        self._busy[work.maker.name] += 1
        return work

    # --- in a thread --------------------------------------------------------------------------------------------------

    def _do(self, work: _Work) -> None:
        error: BaseException | None = None
        try:
            with Store.open(self._store.root) as store:
                if work.maker.name == CONTROLLER:
                    self._pool.here(store, work.asked, self._heard, self._stop.is_set)
                else:
                    self._pool.on(work.maker, store, work.asked, self._heard)
        except BaseException as failure:  # whatever it is, who waits for it must hear of it
            error = failure
        self._ended.put(_Done(work, error))

    # --- what came of it ----------------------------------------------------------------------------------------------

    def _finish(self, done: _Done) -> None:
        work, error = done.work, done.error
        self._busy[work.maker.name] -= 1
        if isinstance(error, BuildsError):
            self._sort_out(work, error)
        elif isinstance(error, BuildError):
            self._elsewhere(work, work.parts, error)
        elif error is not None:
            raise error
        else:
            self._achieved(work.parts)

    def _sort_out(self, work: _Work, error: BuildsError) -> None:
        """Some of it was made."""
        from reconciler.fleet.builders import NotHereError

        elsewhere = {path: one for path, one in error.errors.items() if isinstance(one, NotHereError)}
        for path, one in error.errors.items():
            if path not in elsewhere:
                self._fail(path, one)
        if elsewhere:
            left = work.parts - self._failures.keys() - self._upwards(self._failures)
            lacking = {path for path in left if path in elsewhere or not self._made(path)}
            self._elsewhere(work, lacking, next(iter(elsewhere.values())))
        self._achieved(work.parts - self._failures.keys() - self._upwards(self._failures) - self._waiting)

    def _made(self, path: StorePath) -> bool:
        outputs = set(self._derivations[path].output_paths().values())
        return self._store.valid(outputs) == outputs

    def _elsewhere(self, work: _Work, parts: Collection[StorePath], error: BuildError) -> None:
        """The maker could not make it: whoever else can does. Of several, one may be at fault: each is tried alone."""
        lost = self._pool.lost()
        if len(parts) > 1 and work.maker.name not in lost:
            self._single.update(parts)
            self._waiting.update(parts)
            return
        for path in sorted(parts):
            options = (tuple(each for each in able if each != work.maker) for able in self._options[path])
            self._options[path] = tuple(filter(None, options))
            if not self._able(path):
                self._fail(path, error)
            else:
                self._waiting.add(path)
                self._note(f"{error.message.splitlines()[0]}; {_label(path)} is built {_where(self._able(path))}")
        self._drop()

    def _drop(self) -> None:
        """Give up what waits and only lost builders could make."""
        lost = self._pool.lost()
        for path in sorted(self._waiting):
            if path in self._waiting and not self._able(path):
                self._fail(path, lost[self._options[path][0][0].name])

    def _note(self, text: str) -> None:
        self._pool.notes.append(text)
        self._pool.observer.noted(text)

    def _fail(self, path: StorePath, error: BuildError) -> None:
        self._failures[path] = error
        self._waiting -= {path, *self._upwards((path,))}

    def _upwards(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """All that needs one of `paths`."""
        found: set[StorePath] = set()
        todo = list(paths)
        while todo:
            fresh = self._needed_by.get(todo.pop(), set()) - found
            found |= fresh
            todo += fresh
        return found

    def _achieved(self, paths: Collection[StorePath]) -> None:
        for path in paths:
            for other in self._needed_by[path]:
                self._needs[other].discard(path)


def _where(able: Iterable[Maker]) -> str:
    names = [maker.name for maker in able]
    return "here" if names == [CONTROLLER] else f"on {' or '.join(names)}"


def _label(path: StorePath) -> str:
    return path.name.removesuffix(".drv")
