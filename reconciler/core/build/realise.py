"""Realise derivations: plan, build side by side in dependency order, register what came out.

The calling thread alone touches the store and calls back; workers run the builds and read what they made. After the
first failure nothing new is started, what runs is killed, and that failure is raised.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable

from reconciler.core.build import completeness, graph, limits, sandbox
from reconciler.core.build.events import BuildEvent, BuildOptions, RealiseResult
from reconciler.core.build.graph import Goal
from reconciler.core.build.logs import BuildLog, log_path
from reconciler.core.build.machine import required_features
from reconciler.core.build.outputs import BuiltOutput, collect, in_memory
from reconciler.core.build.starter import Starter
from reconciler.core.build.toolchain import pinned_toolchain, wants_host_toolchain
from reconciler.core.build.users import BuildUser, build_user
from reconciler.core.build.variables import variables
from reconciler.core.build.workshop import Workshop
from reconciler.core.errors import BuildError, ReconcilerError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.merging import CollisionError
from reconciler.core.store.locks import PathLock
from reconciler.core.store.store import Store
from reconciler.core.values import value

__all__ = ["BuildEvent", "BuildOptions", "RealiseResult", "realise"]

_DEFAULTS = BuildOptions()

# Lines of logs that may wait for the calling thread; a build that prints faster than it listens has to wait.
_WAITING_LINES = 1000


class BuildsError(BuildError):
    """What failed of a run that kept going, by derivation; as a BuildError, the first of them."""

    def __init__(self, errors: Mapping[StorePath, BuildError]) -> None:
        self.errors = dict(errors)
        first = next(iter(self.errors.values()))
        super().__init__(first.message, first.hint)


def realise(store: Store, derivations: Sequence[StorePath], options: BuildOptions = _DEFAULTS) -> RealiseResult:
    """Make every output of `derivations` (valid .drv paths of `store`) valid, building what is missing.

    Everything involved is a temporary root of `store` from before the first build. BuildError for the first build that
    fails (with `keep_going`, BuildsError for all of them), StoreError when a derivation or an input is not in the
    store.
    """
    goals = graph.plan(store, derivations, options.machine)
    store.add_temp_roots([*derivations, *goals, *(path for goal in goals.values() for path in goal.outputs.values())])
    built: tuple[StorePath, ...] = ()
    if goals:
        with Starter() as starter, Workshop(store.state_dir) as workshop:
            if any(goal.boxed for goal in goals.values()):
                starter.start()  # beside all that comes before the first sandbox
            built = _Run(store, goals, options, workshop, starter).all()
    wanted = dict.fromkeys(
        path for derivation in derivations for path in store.read_derivation(derivation).output_paths().values()
    )
    return RealiseResult(built, tuple(store.info(path) for path in wanted))


@value
class _Job:
    """One build as a worker takes it. `inputs`: all that it may see, by physical path."""

    goal: Goal
    directory: str
    inputs: Mapping[StorePath, str]


@value
class _Line:
    goal: Goal
    text: str


@value
class _Done:
    job: _Job
    result: tuple[BuiltOutput, ...] | BaseException


class _Run:
    """One run over a graph."""

    def __init__(
        self,
        store: Store,
        goals: Mapping[StorePath, Goal],
        options: BuildOptions,
        workshop: Workshop,
        starter: Starter,
    ) -> None:
        self._store = store
        self._options = options
        self._workshop = workshop
        self._starter = starter
        self._messages: queue.Queue[_Line | _Done] = queue.Queue()
        self._room = threading.Semaphore(_WAITING_LINES)
        self._caller = threading.get_ident()
        self._stop = threading.Event()
        self._waiting = {path: set(goal.waits_for) for path, goal in goals.items()}
        self._goals = goals
        self._urgency = graph.urgency(goals)
        self._workers: dict[StorePath, threading.Thread] = {}
        self._running = 0
        self._locks: dict[StorePath, list[PathLock]] = {}
        self._elsewhere: set[StorePath] = set()
        self._built: list[StorePath] = []
        self._failure: BaseException | None = None
        self._failures: dict[StorePath, BuildError] = {}

    def all(self) -> tuple[StorePath, ...]:
        try:
            while True:
                if not self._stop.is_set():
                    self._start_ready()
                if not self._running and (self._stop.is_set() or not self._waiting):
                    break
                self._next()
        finally:
            self._stop.set()
            for path in list(self._locks):
                self._unlock(path)
            for worker in self._workers.values():
                worker.join()
        if self._failure is not None:
            raise self._failure
        if self._failures:
            raise BuildsError(self._failures)
        return tuple(self._built)

    # --- in the calling thread ----------------------------------------------------------------------------------------

    def _start_ready(self) -> None:
        ready = [path for path, needs in self._waiting.items() if not needs]
        for path in sorted(ready, key=lambda path: (-self._urgency[path], path)):
            if self._running >= self._options.jobs:
                return
            goal = self._goals[path]
            if not self._lock(goal):
                continue
            del self._waiting[path]
            if len(self._store.valid(goal.outputs.values())) == len(goal.outputs):
                self._achieved(goal)  # somebody else built it while we waited
                continue
            self._event("start", goal, _manner(goal))
            closure = self._store.closure(goal.inputs)
            job = _Job(goal, self._workshop.new(), {path: self._store.real(path) for path in closure})
            self._running += 1
            if goal.derivation.builder == "builtin:buildenv":
                self._work(job)  # it asks the store, which this thread alone does
            else:
                self._workers[path] = threading.Thread(target=self._work, args=(job,), name=f"build {goal.label}")
                self._workers[path].start()

    def _lock(self, goal: Goal) -> bool:
        """Take Nix's locks of a goal's outputs; False while another process builds one of them."""
        taken: list[PathLock] = []
        for path in sorted(goal.outputs.values()):
            lock = self._store.path_lock(path)
            if not lock.acquire(wait=False):
                for other in taken:
                    other.release()
                if goal.path not in self._elsewhere:
                    self._elsewhere.add(goal.path)
                    self._event("log", goal, f"another process is building {goal.label}: waiting for it")
                return False
            taken.append(lock)
        self._locks[goal.path] = taken
        return True

    def _unlock(self, path: StorePath) -> None:
        for lock in self._locks.pop(path, []):
            lock.release()

    def _achieved(self, goal: Goal) -> None:
        self._unlock(goal.path)
        for needs in self._waiting.values():
            needs.discard(goal.path)

    def _next(self) -> None:
        """Wait for the next thing to happen, half a second at most."""
        try:
            message = self._messages.get(timeout=0.5)
        except queue.Empty:
            message = None
        if isinstance(message, _Line):
            self._room.release()
            self._event("log", message.goal, message.text)
        elif isinstance(message, _Done):
            self._running -= 1
            self._workers.pop(message.job.goal.path, None)
            if not isinstance(message.result, BaseException) and not self._stop.is_set():
                self._start_ready()  # to be built while what is done is made durable
            self._finish(message.job, message.result)
            if not self._stop.is_set():
                self._start_ready()  # what waited for it, before its directory is cleared away
            if os.path.lexists(message.job.directory):
                self._workshop.remove(message.job.directory)
        if not self._stop.is_set() and self._options.cancelled():
            self._fail(BuildError("the builds were cancelled"))

    def _finish(self, job: _Job, result: tuple[BuiltOutput, ...] | BaseException) -> None:
        if not isinstance(result, BaseException):
            try:
                self._register(result)
            except (ReconcilerError, OSError) as error:
                result = error
        if isinstance(result, BaseException):
            self._event("failed", job.goal, str(result).split("\n", 1)[0])
            self._unlock(job.goal.path)
            self._failed(job, self._with_kept_directory(job, result))
        else:
            self._built.append(job.goal.path)
            self._achieved(job.goal)
            self._event("done", job.goal, _manner(job.goal))

    def _failed(self, job: _Job, error: BaseException) -> None:
        if self._options.keep_going and isinstance(error, BuildError) and not self._stop.is_set():
            self._failures[job.goal.path] = error
            self._give_up_what_needs(job.goal.path)
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._stop.set()

    def _give_up_what_needs(self, path: StorePath) -> None:
        for other in [other for other, needs in self._waiting.items() if path in needs]:
            if self._waiting.pop(other, None) is not None:
                self._give_up_what_needs(other)

    def _with_kept_directory(self, job: _Job, error: BaseException) -> BaseException:
        if not self._options.keep_failed or self._failure is not None or not isinstance(error, BuildError):
            return error
        kept = f"the build directory is kept: {self._workshop.keep(job.directory, job.goal.path)}"
        return BuildError(error.message, f"{error.hint}\n{kept}" if error.hint else kept)

    def _register(self, outputs: Sequence[BuiltOutput]) -> None:
        missing = [output for output in outputs if not self._store.is_valid(output.info.path)]
        with self._store.batch() as batch:
            for output in _references_first(missing):
                batch.add_nar(output.info, nar.ChunkReader(output.chunks()))

    def _event(self, kind: str, goal: Goal, detail: str = "") -> None:
        self._options.on_event(BuildEvent(kind, str(goal.path), detail))

    # --- in a worker --------------------------------------------------------------------------------------------------

    def _work(self, job: _Job) -> None:
        self._messages.put(_Done(job, self._attempt(job)))

    def _tell(self, goal: Goal, line: str) -> None:
        """Hand a line to the calling thread. Once the run is to end, nobody may be listening any more."""
        if threading.get_ident() == self._caller:
            self._event("log", goal, line)
            return
        while not self._stop.is_set():
            if self._room.acquire(timeout=0.5):
                self._messages.put(_Line(goal, line))
                return

    def _attempt(self, job: _Job) -> tuple[BuiltOutput, ...] | BaseException:
        try:
            return self._build(job)
        except BaseException as error:  # whatever it is, the calling thread must hear of it
            return error

    def _build(self, job: _Job) -> tuple[BuiltOutput, ...]:
        path = log_path(self._store.state_dir, job.goal.path)
        with BuildLog(path, lambda line: self._tell(job.goal, line)) as log:
            try:
                if job.goal.derivation.builder == "builtin:buildenv":
                    return (self._environment(job, log),)
                with build_user(self._store.state_dir) as user:
                    sandbox.prepare(job.directory, user)
                    owner = self._run_builder(job, user, log)
                    made_in = os.path.join(job.directory, "store")
                    made = collect(job.goal.derivation, job.goal.path, made_in, job.inputs, owner)
                    return completeness.checked(job.goal.derivation, made, job.inputs)
            except CollisionError:
                raise  # whoever asked for the environment knows whose it is; its log says no more
            except BuildError as error:
                raise _told_with_log(job.goal, error, log) from error

    def _run_builder(self, job: _Job, user: BuildUser, log: BuildLog) -> int:
        """Build; the uid that the outputs belong to."""
        derivation = job.goal.derivation
        if derivation.builder == "builtin:fetchurl":
            from reconciler.core.build import fetch  # http.client and what that needs, which nothing else here does

            out = os.path.join(job.directory, "store", derivation.output_paths()["out"].base_name)
            fetch.fetchurl(derivation.environment, out, _saying(log), self._stop.is_set)
            return os.geteuid()
        pinned = pinned_toolchain(derivation)
        given = variables(derivation, self._options.cores)
        for name, contents in given.files.items():
            _write_for(user, os.path.join(job.directory, "build", name), contents)
        box = sandbox.Sandbox(
            directory=job.directory,
            user=user,
            builder=derivation.builder,
            arguments=derivation.arguments,
            environment=given.environment,
            inputs=job.inputs,
            toolchain=wants_host_toolchain(derivation),
            network=derivation.fixed_output is not None,
            processes=self._options.limits.max_processes,
            memory=self._options.limits.max_memory or limits.default_memory(),
            usr="" if pinned is None else job.inputs[pinned],
            devices=("kvm",) if "kvm" in required_features(derivation) else (),
        )
        watch = sandbox.Watch(log.write, self._options.limits.timeout, self._options.limits.max_log, self._stop.is_set)
        ended = sandbox.run(box, watch, self._starter)
        if not ended.succeeded:
            log.flush()
            hint = ended.hint or limits.suspicion(log.last_lines, box.memory, box.processes)
            raise BuildError(f"the builder {ended.reason}", hint)
        return user.uid

    def _environment(self, job: _Job, log: BuildLog) -> BuiltOutput:
        from reconciler.core.profile.environment import environment_tree

        tree = environment_tree(job.goal.derivation.environment, self._store, _saying(log))
        return in_memory(job.goal.derivation.output_paths()["out"], job.goal.path, tree, job.inputs)


def _saying(log: BuildLog) -> Callable[[str], None]:
    return lambda line: log.write(line.encode(errors="surrogateescape") + b"\n")


def _manner(goal: Goal) -> str:
    return "fetch" if goal.derivation.builder == "builtin:fetchurl" else ""


def _write_for(user: BuildUser, path: str, contents: bytes) -> None:
    with open(path, "xb") as file:
        file.write(contents)
        if not user.single:
            os.fchown(file.fileno(), user.uid, user.gid)


def _told_with_log(goal: Goal, error: BuildError, log: BuildLog) -> BuildError:
    """The error as an operator needs it: what failed, the end of its log, where the rest is."""
    message = f"{goal.label} could not be built: {error.message}"
    hint = error.hint
    log.flush()
    if log.last_lines:
        lines = "".join(f"\n  {line}" for line in log.last_lines)
        message = f"{message}\nthe last lines of its log:{lines}"
        whole = f"the whole log: {log.show_command}"
        hint = f"{hint}\n{whole}" if hint else whole
    return BuildError(message, hint)


def _references_first(outputs: Sequence[BuiltOutput]) -> Iterator[BuiltOutput]:
    """The outputs of one build in the order in which they can be registered."""
    left = {output.info.path: output for output in outputs}
    while left:
        ready = [path for path, output in left.items() if not (set(output.info.references) - {path}) & set(left)]
        if not ready:
            names = " and ".join(str(path) for path in sorted(left))
            raise BuildError(f"the outputs {names} refer to each other in a circle")
        for path in ready:
            yield left.pop(path)
