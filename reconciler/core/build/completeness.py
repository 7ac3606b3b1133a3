"""Is the closure of a build complete: does all that its programs are loaded with lie in the store?

Of each output: every ELF file's interpreter, and every library that it needs, looked for where its own RUNPATH or
RPATH says; and the interpreter of every executable script. Each must lie in a store path that the build could see.
What is named by a store path is in the output's bytes, so the scan makes it a reference, and its closure complete.

Only for builds with a pinned toolchain: with the host's, programs are linked to the distribution's C library by design.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping

from reconciler.core.build import elf
from reconciler.core.build.outputs import BuiltOutput
from reconciler.core.build.toolchain import pinned_toolchain
from reconciler.core.errors import BuildError, FormatError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import STORE_DIR, StorePath

MAX_TOLD = 10  # faults told of one build
_SHEBANG = b"#!"
_MAX_SHEBANG = 4096
_MAX_LINKS = 40  # as many as Linux follows
_ORIGIN = ("$ORIGIN", "${ORIGIN}")

_HINT = (
    "programs and libraries that a package is to use are its `inputs`; an input's directory is found with "
    "-Wl,-rpath,$NAME/lib (which LDFLAGS says), a script's interpreter where an input has it in bin"
)


def checked(
    derivation: Derivation, outputs: tuple[BuiltOutput, ...], inputs: Mapping[StorePath, str]
) -> tuple[BuiltOutput, ...]:
    """The outputs themselves. BuildError naming every file (of the first few) that needs what is not there; `inputs`:
    all that the build could see, by physical path."""
    if pinned_toolchain(derivation) is not None:
        seen = _Seen({**inputs, **{output.info.path: output.real for output in outputs}})
        faults = [fault for output in outputs for fault in _faults(output, seen)]
        if faults:
            raise _incomplete(faults)
    return outputs


def _incomplete(faults: list[str]) -> BuildError:
    told = "".join(f"\n  {fault}" for fault in faults[:MAX_TOLD])
    more = f"\n  and {len(faults) - MAX_TOLD} more" if len(faults) > MAX_TOLD else ""
    return BuildError(f"it would not run where there is only the store:{told}{more}", _HINT)


class _Seen:
    """The store paths that there are, by physical path."""

    def __init__(self, real: Mapping[StorePath, str]) -> None:
        self._real = {str(path): place for path, place in real.items()}

    def find(self, path: str) -> str:
        """Where the file at a path of the store lies, through links; empty when there is none."""
        for _ in range(_MAX_LINKS):
            base, rest = _split(posixpath.normpath(path))
            if base not in self._real:
                return ""
            step = self._real[base]
            shown = base
            parts = rest.split("/") if rest else []
            for index, part in enumerate(("", *parts)):
                step, shown = (f"{step}/{part}", f"{shown}/{part}") if part else (step, shown)
                if not os.path.lexists(step):
                    return ""
                if os.path.islink(step):
                    path = posixpath.join(posixpath.dirname(shown), os.readlink(step), *parts[index:])
                    break
            else:
                return step
        return ""


def _split(path: str) -> tuple[str, str]:
    """The store path of a path, and the rest; nothing for a path outside of the store."""
    if not path.startswith(STORE_DIR + "/"):
        return "", ""
    base, _, rest = path[len(STORE_DIR) + 1 :].partition("/")
    return f"{STORE_DIR}/{base}", rest


def _faults(output: BuiltOutput, seen: _Seen) -> Iterator[str]:
    shown = str(output.info.path)
    for real in _files(output.real):
        name = shown + real[len(output.real) :]
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield from _file_faults(fd, name, seen)
        finally:
            os.close(fd)


def _files(top: str) -> Iterator[str]:
    """The regular files of an output, in the order of their names."""
    if stat.S_ISREG(os.lstat(top).st_mode):
        yield top
    for directory, inner, names in os.walk(top):
        inner.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def _file_faults(fd: int, name: str, seen: _Seen) -> Iterator[str]:
    start = os.pread(fd, _MAX_SHEBANG, 0)
    if start.startswith(_SHEBANG) and os.fstat(fd).st_mode & stat.S_IXUSR:
        yield from _script_faults(start, name, seen)
        return
    try:
        loaded = elf.read(fd)
    except FormatError as error:
        yield f"{name}: {error.message}"
        return
    if loaded is not None:
        yield from _elf_faults(loaded, name, seen)


def _script_faults(start: bytes, name: str, seen: _Seen) -> Iterator[str]:
    words = os.fsdecode(start[len(_SHEBANG) :].split(b"\n", 1)[0]).split()
    if not words:
        yield f"{name} names no interpreter after #!"
    elif not seen.find(words[0]):
        yield f"{name} is run by {' '.join(words[:2])}, {_reason(words[0])}"


def _elf_faults(loaded: elf.Loaded, name: str, seen: _Seen) -> Iterator[str]:
    if loaded.interpreter and not seen.find(loaded.interpreter):
        yield f"{name} is loaded by {loaded.interpreter}, {_reason(loaded.interpreter)}"
    origin = posixpath.dirname(name)
    places = [_expanded(place, origin) for place in loaded.run_path]
    for needed in loaded.needed:
        if "/" in needed:
            if not seen.find(needed):
                yield f"{name} needs {needed}, {_reason(needed)}"
        elif not any(seen.find(f"{place}/{needed}") for place in places):
            yield f"{name} needs {needed}, which is in {_listed(loaded.run_path)}"


def _expanded(place: str, origin: str) -> str:
    for word in _ORIGIN:
        place = place.replace(word, origin)
    return place


def _reason(path: str) -> str:
    return "which is not there" if path.startswith(STORE_DIR + "/") else f"which is not in {STORE_DIR}"


def _listed(places: tuple[str, ...]) -> str:
    if not places:
        return "no directory of its run path: it has none"
    return f"no directory of its run path ({':'.join(places)})"
