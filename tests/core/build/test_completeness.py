"""Is a closure complete: ELF files and scripts, good, bad and broken."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from reconciler.core.build import completeness, elf
from reconciler.core.build.outputs import BuiltOutput
from reconciler.core.errors import BuildError, FormatError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from tests.core.build.elf_files import elf as made

OUT = StorePath("0" * 32, "thing-1.0")
LIBC = StorePath("1" * 32, "libc")
TOOLS = StorePath("2" * 32, "tools")
LOADER = f"{LIBC}/lib/ld.so"


def read(tmp_path: Path, content: bytes) -> elf.Loaded | None:
    file = tmp_path / "file"
    file.write_bytes(content)
    fd = os.open(file, os.O_RDONLY)
    try:
        return elf.read(fd)
    finally:
        os.close(fd)


# --- the reader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("little", [True, False])
def test_both_sizes_and_byte_orders_are_read(tmp_path: Path, wide: bool, little: bool) -> None:
    content = made(interpreter="/x/ld.so", needed=["a.so", "b.so"], rpath="/x:/y::", wide=wide, little=little)
    assert read(tmp_path, content) == elf.Loaded("/x/ld.so", ("a.so", "b.so"), ("/x", "/y"))


def test_a_runpath_hides_an_rpath(tmp_path: Path) -> None:
    loaded = read(tmp_path, made(needed=["a"], runpath="/new", rpath="/old"))
    assert loaded is not None
    assert loaded.run_path == ("/new",)
    assert loaded.is_final


@pytest.mark.parametrize("content", [b"", b"\x7fEL", b"#!/bin/sh\n", b"text", made(kind=1), made(kind=4)])
def test_what_is_never_loaded_says_nothing(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) is None


def test_a_real_program_is_read_as_readelf_reads_it(tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    content = Path("/bin/sh").read_bytes()
    loaded = read(tmp_path, content)
    assert loaded is not None
    said = subprocess.run(["readelf", "-ld", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    assert f"[Requesting program interpreter: {loaded.interpreter}]" in said
    assert said.count("(NEEDED)") == len(loaded.needed)
    assert all(f"Shared library: [{name}]" in said for name in loaded.needed)


def put(content: bytes, offset: int, form: str, number: int) -> bytes:
    data = bytearray(content)
    struct.pack_into(form, data, offset, number)
    return bytes(data)


GOOD = made(interpreter="/x/ld.so", needed=["a.so"], rpath="/x")
DYNAMIC = 64 + 56  # where the program header of the dynamic table stands
BROKEN = {
    "a header that is cut": (GOOD[:40], "its ELF header is broken"),
    "a class that is none": (put(GOOD, 4, "B", 3), "its ELF header is broken"),
    "segments beyond the end": (put(GOOD, 32, "<Q", 1 << 40), "its segments lie outside of the file"),
    "too many segments": (put(GOOD, 56, "<H", 60000), "it has 60000 segments"),
    "segments that are too small": (put(GOOD, 54, "<H", 8), "segments of 8 bytes"),
    "a dynamic table beyond the end": (put(GOOD, DYNAMIC + 8, "<Q", 1 << 62), "its dynamic entries lie outside"),
    "a dynamic table without end": (put(GOOD, DYNAMIC + 32, "<Q", 1 << 62), "its dynamic table is too long"),
    "two dynamic tables": (put(GOOD, 64, "<I", 2), "more than one interpreter, or dynamic table"),
    "an interpreter without end": (put(GOOD, DYNAMIC + 56 + 32, "<Q", 4), "has no end"),
    "an interpreter that is too long": (put(GOOD, DYNAMIC + 56 + 32, "<Q", 1 << 40), "which cannot be"),
    "strings in no segment": (put(GOOD, 64 + 32, "<Q", 64), "its table of strings lies in no segment"),
    "a string beyond the table": (put(GOOD, len(GOOD) - 5 * 16 + 8, "<Q", 1 << 40), "has no end"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_an_error_and_nothing_else(tmp_path: Path, what: str) -> None:
    content, message = BROKEN[what]
    with pytest.raises(FormatError) as error:
        read(tmp_path, content)
    assert message in error.value.message


def test_no_change_of_a_byte_makes_the_reader_fail_otherwise(tmp_path: Path) -> None:
    chance = random.Random(1)
    for _ in range(2000):
        data = bytearray(GOOD)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read(tmp_path, bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data))
        except FormatError:
            continue


# --- the check --------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> dict[StorePath, Path]:
    """An output and a C library on disk, somewhere."""
    found = {OUT: tmp_path / "build/out", LIBC: tmp_path / "store/libc", TOOLS: tmp_path / "store/tools"}
    for place in found.values():
        (place / "bin").mkdir(parents=True)
        (place / "lib").mkdir()
    for name in ("ld.so", "libc.so.6"):
        (found[LIBC] / "lib" / name).write_bytes(b"library")
    (found[LIBC] / "lib/link.so").symlink_to("libc.so.6")
    (found[LIBC] / "lib/away.so").symlink_to("/lib/away.so")
    (found[LIBC] / "lib/round.so").symlink_to("round.so")
    (found[LIBC] / "all").symlink_to(f"{LIBC}/lib")
    (found[LIBC] / "bin/sh").write_bytes(b"shell")
    return found


def told(places: dict[StorePath, Path], toolchain: str = str(TOOLS)) -> list[str]:
    """The faults of the output, without its path."""
    info = PathInfo(OUT, Hash.sha256(b""), 8, ())
    derivation = Derivation({}, {}, (TOOLS, LIBC), "x", "/bin/sh", (), {"toolchain": toolchain})
    inputs = {path: str(place) for path, place in places.items() if path != OUT}
    outputs = (BuiltOutput(info, str(places[OUT])),)
    try:
        assert completeness.checked(derivation, outputs, inputs) == outputs
    except BuildError as error:
        return [line.strip().replace(f"{OUT}/", "") for line in error.message.splitlines()[1:]]
    return []


def program(place: Path, content: bytes | str, mode: int = 0o755) -> None:
    place.write_bytes(content if isinstance(content, bytes) else content.encode())
    place.chmod(mode)


COMPLETE: dict[str, bytes | str] = {
    "a program": made(interpreter=LOADER, needed=["libc.so.6"], rpath=f"/nowhere:{LIBC}/lib"),
    "a link that stays": made(interpreter=LOADER, needed=["link.so"], runpath=f"{LIBC}/lib"),
    "a directory that is a link": made(needed=["libc.so.6"], runpath=f"{LIBC}/all"),
    "a library of its own": made(needed=["own.so"], runpath="$ORIGIN/../lib"),
    "the same, otherwise": made(needed=["own.so"], runpath="${ORIGIN}/../lib"),
    "a library by its path": made(needed=[f"{LIBC}/lib/libc.so.6"]),
    "a static program": made(),
    "a script": f"#! {LIBC}/bin/sh -e\n",
    "data": b"\0\1\2",
}


@pytest.mark.parametrize("what", COMPLETE)
def test_what_finds_all_in_the_store_is_complete(places: dict[StorePath, Path], what: str) -> None:
    program(places[OUT] / "lib/own.so", made())
    program(places[OUT] / "bin/thing", COMPLETE[what])
    assert told(places) == []


INCOMPLETE: dict[str, tuple[bytes | str, str]] = {
    "the distribution's loader": (
        made(interpreter="/lib64/ld.so"),
        "bin/thing is loaded by /lib64/ld.so, which is not in /nix/store",
    ),
    "a loader that is not there": (
        made(interpreter=f"{LIBC}/ld.so"),
        f"bin/thing is loaded by {LIBC}/ld.so, which is not there",
    ),
    "a store path that the build could not see": (
        made(interpreter=f"/nix/store/{'3' * 32}-other/ld.so"),
        f"bin/thing is loaded by /nix/store/{'3' * 32}-other/ld.so, which is not there",
    ),
    "a library without a run path": (
        made(needed=["libc.so.6"]),
        "bin/thing needs libc.so.6, which is in no directory of its run path: it has none",
    ),
    "a library that is elsewhere": (
        made(needed=["own.so"], rpath=f"{LIBC}/lib"),
        f"bin/thing needs own.so, which is in no directory of its run path ({LIBC}/lib)",
    ),
    "a link out of the store": (
        made(needed=["away.so"], rpath=f"{LIBC}/lib"),
        f"bin/thing needs away.so, which is in no directory of its run path ({LIBC}/lib)",
    ),
    "a link to itself": (
        made(needed=["round.so"], rpath=f"{LIBC}/lib"),
        f"bin/thing needs round.so, which is in no directory of its run path ({LIBC}/lib)",
    ),
    "a run path that climbs out": (
        made(needed=["passwd"], rpath="$ORIGIN/../../../../etc"),
        "bin/thing needs passwd, which is in no directory of its run path ($ORIGIN/../../../../etc)",
    ),
    "a library by a path of the distribution": (
        made(needed=["/lib/x.so"]),
        "bin/thing needs /lib/x.so, which is not in /nix/store",
    ),
    "a script of the distribution's shell": (
        "#!/bin/sh -e\n",
        "bin/thing is run by /bin/sh -e, which is not in /nix/store",
    ),
    "a script that is looked for": (
        "#!/usr/bin/env sh\n",
        "bin/thing is run by /usr/bin/env sh, which is not in /nix/store",
    ),
    "a script of nobody": ("#!\n", "bin/thing names no interpreter after #!"),
    "a broken file": (GOOD[:40], "bin/thing: its ELF header is broken"),
}


@pytest.mark.parametrize("what", INCOMPLETE)
def test_what_does_not_is_told_by_its_file(places: dict[StorePath, Path], what: str) -> None:
    content, message = INCOMPLETE[what]
    program(places[OUT] / "bin/thing", content)
    assert told(places) == [message]


def test_a_text_that_nobody_runs_may_name_any_interpreter(places: dict[StorePath, Path]) -> None:
    program(places[OUT] / "lib/module.pl", "#!/usr/bin/perl\n", 0o644)
    assert told(places) == []


def test_an_output_that_is_one_file_is_checked_too(places: dict[StorePath, Path]) -> None:
    shutil.rmtree(places[OUT])
    program(places[OUT], "#!/bin/sh\n")
    assert told(places) == [f"{OUT} is run by /bin/sh, which is not in /nix/store"]


def test_of_many_faults_the_first_are_told_and_the_rest_counted(places: dict[StorePath, Path]) -> None:
    for number in range(15):
        program(places[OUT] / f"bin/{number:02}", "#!/bin/sh\n")
    faults = told(places)
    assert len(faults) == completeness.MAX_TOLD + 1
    assert faults[-1] == "and 5 more"


def test_with_the_hosts_toolchain_nothing_is_checked(places: dict[StorePath, Path]) -> None:
    program(places[OUT] / "bin/thing", "#!/bin/sh\n")
    assert told(places, "host-0123") == []


# --- libraries that a program loads by itself -------------------------------------------------------------------------

PYTHON = f"{LIBC}/bin/python3"
AT_ORIGIN = made(interpreter=LOADER, needed=["libc.so.6", "libm.so"], rpath="/nowhere:$ORIGIN/../lib")
FINAL = made(interpreter=LOADER, needed=["libc.so.6", "libm.so"], runpath=f"{LIBC}/lib")
HAS_NOT = f", and {PYTHON}, which loads it, does not have it"
PLUGINS: dict[str, tuple[bytes, bytes, str]] = {
    # the program, the library, the fault
    "the program's RPATH has it": (AT_ORIGIN, made(needed=["link.so"]), ""),
    "it has an RPATH too": (AT_ORIGIN, made(needed=["own.so", "link.so"], rpath="$ORIGIN"), ""),
    "a RUNPATH of its own hides the program's": (
        AT_ORIGIN,
        made(needed=["own.so", "link.so"], runpath="$ORIGIN"),
        f"lib/plug.so needs link.so, which is in no directory of its run path ($ORIGIN){HAS_NOT}",
    ),
    "the program's RUNPATH is for the program": (
        FINAL,
        made(needed=["link.so"]),
        f"lib/plug.so needs link.so, which is in no directory of its run path: it has none{HAS_NOT}",
    ),
    "the program needs it as well, wherever it is from": (FINAL, made(needed=["libm.so"], runpath="$ORIGIN"), ""),
    "neither has it": (
        AT_ORIGIN,
        made(needed=["gone.so"]),
        f"lib/plug.so needs gone.so, which is in no directory of its run path: it has none{HAS_NOT}",
    ),
    "it is a program itself": (
        AT_ORIGIN,
        made(interpreter=LOADER, needed=["link.so"]),
        "lib/plug.so needs link.so, which is in no directory of its run path: it has none",
    ),
    "the program is a script": (
        b"#!/bin/sh\n",
        made(),
        f"nix-support/loaded-by names {PYTHON}, which is no program that loads libraries",
    ),
}


@pytest.mark.parametrize("what", PLUGINS)
def test_what_a_library_needs_may_be_found_by_the_program_that_loads_it(
    places: dict[StorePath, Path], what: str
) -> None:
    """As ld.so(8) has it."""
    loading, library, fault = PLUGINS[what]
    (places[LIBC] / "bin/python3.1").write_bytes(loading)
    (places[LIBC] / "bin/python3").symlink_to("python3.1")
    program(places[OUT] / "lib/own.so", made())
    program(places[OUT] / "lib/plug.so", library)
    (places[OUT] / "nix-support").mkdir()
    (places[OUT] / "nix-support/loaded-by").write_text(f"{PYTHON}\n")
    assert told(places) == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/usr/bin/python3", "not in /nix/store"), (f"{LIBC}/bin/ruby", "not there"), ("", "not in /nix/store")],
)
def test_a_program_that_is_to_load_libraries_lies_in_the_store(
    places: dict[StorePath, Path], path: str, reason: str
) -> None:
    (places[OUT] / "nix-support").mkdir()
    (places[OUT] / "nix-support/loaded-by").write_text(f"{path}\n")
    assert told(places) == [f"nix-support/loaded-by names {path}, which is {reason}"]


def test_what_a_link_says_is_not_read(places: dict[StorePath, Path], tmp_path: Path) -> None:
    (tmp_path / "loaded-by").write_text(f"{PYTHON}\n")
    (places[OUT] / "nix-support").symlink_to(tmp_path)
    program(places[OUT] / "lib/plug.so", made(needed=["link.so"]))
    assert told(places) == ["lib/plug.so needs link.so, which is in no directory of its run path: it has none"]
