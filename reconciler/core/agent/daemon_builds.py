"""Builds by a host's own Nix: its daemon makes what derivations say, by its own rules (nix.conf).

The limits and the number of jobs of BuildOptions are for builds of ours, and the daemon has its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.core.build.events import BuildEvent, BuildOptions, RealiseResult
from reconciler.core.build.logs import printable
from reconciler.core.build.realise import BuildsError
from reconciler.core.errors import BuildError, ReconcilerError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.daemon import DaemonStore
from reconciler.core.store.daemon_client import Activity, DaemonError

# Nix's numbers (src/libutil/logging.hh) of an activity that is a build, and of a result that is a line of its log.
_BUILD, _LOG_LINE = 105, 101


def realise(store: DaemonStore, derivations: Sequence[StorePath], options: BuildOptions) -> RealiseResult:
    """Make the outputs of `derivations` valid, whose files are. BuildError in the daemon's words when that fails;
    with `keep_going` BuildsError, when all else is made."""
    read = {path: store.read_derivation(path) for path in derivations}
    listener = _Listener(options)
    errors: dict[StorePath, BuildError] = {}
    for some in [[path] for path in read] if options.keep_going else [list(read)]:
        try:
            _build(store, {path: read[path] for path in some}, listener)
        except BuildError as error:
            if not options.keep_going:
                raise
            errors[some[0]] = error
    if errors:
        raise BuildsError(errors)
    outputs = dict.fromkeys(path for drv in read.values() for path in drv.output_paths().values())
    return RealiseResult(tuple(listener.built), tuple(store.info(path) for path in outputs))


def _build(store: DaemonStore, wanted: dict[StorePath, Derivation], listener: _Listener) -> None:
    lacking = _lacking(store, wanted)
    if not lacking:
        return
    names = [f"{path}!{','.join(sorted(wanted[path].output_paths()))}" for path in lacking]
    try:
        store.build(names, listener.heard, listener.checkpoint)
    except DaemonError as error:
        listener.settle([path for path in listener.ended if not _is_made(store, path)], error.message)
        raise BuildError(error.message) from error
    listener.settle((), "")


def _lacking(store: DaemonStore, wanted: dict[StorePath, Derivation]) -> list[StorePath]:
    """Those derivations of which an output is not valid."""
    valid = store.valid(output for drv in wanted.values() for output in drv.output_paths().values())
    return [path for path, drv in wanted.items() if not valid.issuperset(drv.output_paths().values())]


def _is_made(store: DaemonStore, path: StorePath) -> bool:
    """Whether a derivation that the daemon spoke of is built; not, where it cannot be read."""
    try:
        return not _lacking(store, {path: store.read_derivation(path)})
    except ReconcilerError:
        return False


class _Listener:
    """What the daemon tells of its builds, as BuildEvents. That one has ended says not how: that is told at the end."""

    def __init__(self, options: BuildOptions) -> None:
        self._options = options
        self._running: dict[int, StorePath] = {}
        self.ended: list[StorePath] = []
        self.built: list[StorePath] = []

    def checkpoint(self) -> None:
        if self._options.cancelled():
            raise BuildError("the builds were broken off: nobody waits for them any more")

    def heard(self, activity: Activity) -> None:
        if activity.kind == "start" and activity.type == _BUILD and activity.fields:
            path = StorePath.parse(activity.fields[0])
            self._running[activity.number] = path
            self._tell("start", path)
        elif activity.number in self._running and activity.kind == "stop":
            self.ended.append(self._running.pop(activity.number))
        elif activity.number in self._running and activity.type == _LOG_LINE and activity.fields:
            self._tell("log", self._running[activity.number], printable(activity.fields[0].encode()))

    def settle(self, failed: Sequence[StorePath], why: str) -> None:
        """Tell how the builds ended that have ended since the last time."""
        for path in dict.fromkeys([*self.ended, *self._running.values()]):
            if path in failed:
                self._tell("failed", path, why.split("\n", 1)[0])
            elif path in self.ended:
                self.built.append(path)
                self._tell("done", path)
        self.ended.clear()
        self._running.clear()

    def _tell(self, kind: str, path: StorePath, detail: str = "") -> None:
        self._options.on_event(BuildEvent(kind, str(path), detail))
