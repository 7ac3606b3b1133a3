"""Is the closure of a build complete: does all that its programs are loaded with lie in the store?

Of each output: every ELF file's interpreter, and every library that it needs, looked for where its own RUNPATH or
RPATH says; and the interpreter of every executable script. Each must lie in a store path that the build could see.
What is named by a store path is in the output's bytes, so the scan makes it a reference, and its closure complete.

A library may be one that a program loads by itself, as Python does with what is compiled of a wheel. Then the output
says which: nix-support/loaded-by holds the program's path. What such a library needs is also found where the program's
own RPATH says (but not where the library has a RUNPATH; ld.so(8)), and is there already where the program needs it too.

Only for builds with a pinned toolchain: with the host's, programs are linked to the distribution's C library by design.
"""

from __future__ import annotations

import contextlib
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
from reconciler.core.values import value

MAX_TOLD = 10  # faults told of one build
LOADED_BY = "nix-support/loaded-by"
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


@value
class _Program:
    """What loads the libraries of an output."""

    path: str
    loaded: elf.Loaded

    def finds(self, needed: str, library: elf.Loaded, seen: _Seen) -> bool:
        """Whether it has a library, or finds one, for a library that it loads."""
        if needed in self.loaded.needed:
            return True
        if library.is_final or self.loaded.is_final:
            return False
        origin = posixpath.dirname(self.path)
        return any(seen.find(f"{_expanded(place, origin)}/{needed}") for place in self.loaded.run_path)


def _faults(output: BuiltOutput, seen: _Seen) -> Iterator[str]:
    shown = str(output.info.path)
    try:
        program = _loaded_by(output, seen)
    except FormatError as error:
        yield f"{shown}/{LOADED_BY} {error.message}"
        return
    for real in _files(output.real):
        name = shown + real[len(output.real) :]
        with _opened(real) as fd:
            yield from _file_faults(fd, name, seen, program)


@contextlib.contextmanager
def _opened(real: str) -> Iterator[int]:
    fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _loaded_by(output: BuiltOutput, seen: _Seen) -> _Program | None:
    """The program that an output says; FormatError when it says none that is there."""
    file = os.path.join(output.real, LOADED_BY)
    # A link, there or on the way, may lead anywhere.
    if os.path.realpath(file) != os.path.join(os.path.realpath(output.real), LOADED_BY) or not os.path.isfile(file):
        return None
    with _opened(file) as fd:
        path = os.fsdecode(os.pread(fd, elf.MAX_PATH, 0)).strip()
    real = seen.find(path)
    if not real:
        raise FormatError(f"names {path}, {_reason(path)}")
    with _opened(real) as fd:
        loaded = elf.read(fd)
    if loaded is None:
        raise FormatError(f"names {path}, which is no program that loads libraries")
    return _Program(path, loaded)


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


def _file_faults(fd: int, name: str, seen: _Seen, program: _Program | None) -> Iterator[str]:
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
        yield from _elf_faults(loaded, name, seen, None if loaded.interpreter else program)


def _script_faults(start: bytes, name: str, seen: _Seen) -> Iterator[str]:
    words = os.fsdecode(start[len(_SHEBANG) :].split(b"\n", 1)[0]).split()
    if not words:
        yield f"{name} names no interpreter after #!"
    elif not seen.find(words[0]):
        yield f"{name} is run by {' '.join(words[:2])}, {_reason(words[0])}"


def _elf_faults(loaded: elf.Loaded, name: str, seen: _Seen, program: _Program | None) -> Iterator[str]:
    if loaded.interpreter and not seen.find(loaded.interpreter):
        yield f"{name} is loaded by {loaded.interpreter}, {_reason(loaded.interpreter)}"
    origin = posixpath.dirname(name)
    places = [_expanded(place, origin) for place in loaded.run_path]
    for needed in loaded.needed:
        if "/" in needed:
            if not seen.find(needed):
                yield f"{name} needs {needed}, {_reason(needed)}"
        elif not any(seen.find(f"{place}/{needed}") for place in places) and (
            program is None or not program.finds(needed, loaded, seen)
        ):
            also = f", and {program.path}, which loads it, does not have it" if program else ""
            yield f"{name} needs {needed}, which is in {_listed(loaded.run_path)}{also}"


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
