"""The entry points, and the one place that prints errors."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from reconciler.cli.output import abandon, visible
from reconciler.core.errors import ExitStatus, Faults, ReconcilerError

# 128 + SIGINT: what a shell says of a program that Ctrl-C ended.
INTERRUPTED = 130

# Most of a command's objects are its libraries, which stay: to look through them again and again while they are
# imported, as Python's own threshold of 700 has it, is a fifth of a short command's time.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


def main() -> NoReturn:
    """`reconciler COMMAND`."""
    _run_to_the_end("reconciler")


def deploy() -> NoReturn:
    """`deploy`, a command of its own."""
    _run_to_the_end("deploy")


def _run_to_the_end(program: str) -> NoReturn:
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    status = run(program, sys.argv[1:])
    # The status has been told by now: a Ctrl-C while the interpreter ends shall not change it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # to look for garbage in all that is left takes a tenth of a second, and the kernel takes all of it
    sys.exit(status)


def run(program: str, arguments: Sequence[str]) -> int:
    """Run a command line; the exit status. `program` is `reconciler`, or a command that has a name of its own."""
    from reconciler.cli.app import invoke

    return guarded(lambda: invoke(program, list(arguments)))


def open_streams() -> None:
    """Give each standard stream that was closed (`2>&-`) a place: else the next file to be opened would be it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def guarded(body: Callable[[], int]) -> int:
    """Run `body` and print whatever it raises; the exit status."""
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter shall not end the command.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return body()
    except ReconcilerError as error:
        _say(error_text(error))
        return int(error.status)
    except KeyboardInterrupt:
        _say("error: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        abandon(sys.stdout)
        return int(ExitStatus.OK)
    except OSError as error:
        return _by_the_system(error) if error.errno in _OF_THE_SYSTEM else _unexpected(error)
    except Exception as error:
        return _unexpected(error)


# What the machine refuses, and is no fault of ours.
_OF_THE_SYSTEM = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EACCES: "who runs the command may not do that",
    errno.EPERM: "who runs the command may not do that",
    errno.EROFS: "it is mounted read-only",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EMFILE: "ulimit -n: more open files, or --forks: fewer hosts at once",
    errno.ENFILE: "the machine has too many files open",
}


def _by_the_system(error: OSError) -> int:
    _debug()
    where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "this machine"
    _say(error_text(ReconcilerError(f"{where}: {error.strerror}", _OF_THE_SYSTEM[error.errno or 0])))
    return int(ExitStatus.FAILED)


def error_text(error: ReconcilerError) -> str:
    """`error: …` and `hint:  …`, for each of several faults."""
    errors = error.errors if isinstance(error, Faults) else (error,)
    return "\n".join(dict.fromkeys(_one(each) for each in errors))


def _one(error: ReconcilerError) -> str:
    text = _labelled("error: ", error.message)
    return text + _labelled("hint:  ", error.hint) if error.hint else text


def _labelled(label: str, text: str) -> str:
    first, *rest = text.splitlines() or [""]
    indent = " " * len(label)
    return "".join([f"{label}{first}\n", *(f"{indent}{line.removeprefix(indent)}\n" for line in rest)])


def _unexpected(error: Exception) -> int:
    _debug()
    summary = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    kept = _keep_traceback()
    hint = f"the traceback is in {kept}; please report it" if kept else "RECONCILER_DEBUG=1 shows the traceback"
    _say(error_text(ReconcilerError(f"this is a fault of reconciler itself: {summary}", hint)))
    return int(ExitStatus.INTERNAL)


def _debug() -> None:
    if os.environ.get("RECONCILER_DEBUG"):
        import traceback

        _say(traceback.format_exc())


def _keep_traceback() -> str | None:
    """Write the traceback into the state directory, else into the temporary one; where it is."""
    import tempfile
    import traceback

    stamp = time.strftime("%y%m%d-%H%M%S")
    text = f"reconciler {_version()}, python {sys.version.split()[0]}, {sys.argv!r}\n\n{traceback.format_exc()}"
    for directory in (_state_directory(), tempfile.gettempdir()):
        path = os.path.join(directory, f"fault-{stamp}-{os.getpid()}.txt")
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError:
            continue
        with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
            file.write(text)
        return path
    return None


def _state_directory() -> str:
    # Not fleet.project's function: the fault may be that fleet.project cannot be imported.
    base = os.environ.get("XDG_STATE_HOME", "")
    base = base if os.path.isabs(base) else os.path.expanduser("~/.local/state")
    return os.path.join(base, "reconciler", "faults")


def _version() -> str:
    from reconciler import __version__

    return __version__


def _say(text: str) -> None:
    try:
        sys.stderr.write(visible(text))
        sys.stderr.flush()
    except OSError:
        abandon(sys.stderr)


if __name__ == "__main__":
    main()
