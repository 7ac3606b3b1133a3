"""What a caller says about a run of builds, and what it hears back."""

from __future__ import annotations

from typing import Callable

from reconciler.core.build.machine import PLAIN, Machine
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.core.values import field, fields, value

LOG_LINES_IN_ERROR = 10


@value
class BuildEvent:
    """`kind` is `start`, `log`, `done` or `failed`; `derivation` the full .drv path.

    `detail` is `fetch` for a download's `start` and `done` and empty for a build's, one printable line of the log for
    `log`, the first line of the error for `failed`. Events come in the thread that called `realise`.
    """

    kind: str
    derivation: str
    detail: str = ""


def _ignore(_: BuildEvent) -> None:
    pass


def _never() -> bool:
    return False


@value
class BuildLimits:
    """What one build may use.

    timeout        seconds that it may take
    max_log        bytes that it may print
    max_processes  processes and threads that it may have at a time
    max_memory     bytes of memory, see limits.py for what they count; 0: three quarters of the machine's
    """

    timeout: float = 6 * 3600
    max_log: int = 64 * 1024 * 1024
    max_processes: int = 8192
    max_memory: int = 0

    def by_name(self) -> dict[str, float]:
        """As RealiseRequest takes them."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.max_log < 1 or self.max_processes < 1 or self.max_memory < 0:
            raise ValueError("a build needs some time, log, processes and memory")


@value
class BuildOptions:
    """How to build.

    jobs           builds at a time
    cores          what NIX_BUILD_CORES says to each build; 0: the machine's
    keep_going     after a failed build, make all else that does not need it, and raise BuildsError at the end
    keep_failed    leave the build directory of a failed build where it is, and name it in the error
    limits         what each build may use
    machine        what this machine can do beside running programs of its own system
    cancelled      asked about every half second; once it is true, running builds are killed and BuildError is raised
    """

    jobs: int = 1
    cores: int = 0
    keep_going: bool = False
    keep_failed: bool = False
    limits: BuildLimits = field(default_factory=BuildLimits)
    machine: Machine = PLAIN
    on_event: Callable[[BuildEvent], None] = _ignore
    cancelled: Callable[[], bool] = _never

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError("at least one job is needed")


@value
class RealiseResult:
    """`built`: derivations that were built now. `outputs`: what is registered of every output of those asked for."""

    built: tuple[StorePath, ...]
    outputs: tuple[PathInfo, ...]
