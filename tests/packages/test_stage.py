"""The standard builder of recipes, by real builds."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from reconciler.core.build.realise import realise
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import BuildError
from reconciler.core.store.store import Store
from reconciler.packages.instantiate import instantiate
from tests.oracle import RealNix
from tests.packages.project import Project


def build(project: Project, store: Store, name: str) -> Path:
    """Build a package of a project; where its output lies."""
    resolver = project.resolver()
    package = resolver.resolve(name, host_system())
    instantiate(resolver.graph([package]), store)
    assert package.derivation is not None
    (info,) = realise(store, [package.derivation]).outputs
    return Path(store.real(info.path))


def write(project: Project, name: str, body: str) -> None:
    project.recipe(name, f"version: 1.0\ntoolchain: host\n{body}")


def archive(path: Path, members: dict[str, str], mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            member.mode = 0o444
            tar.addfile(member, io.BytesIO(text.encode()))


SHOW = "build: |\n  { pwd; find . -type f | sort; } > $out\n"


@pytest.mark.parametrize(
    ("members", "directory"),
    [
        ({"thing-1.0/file": "x", "thing-1.0/sub/file": "y"}, "/build/thing-1.0"),
        ({"file": "x", "sub/file": "y"}, "/build/thing-source"),
        ({"only/.hidden": "x", ".hidden": "y"}, "/build/thing-source"),
    ],
)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_an_archive_is_unpacked_and_gone_into(
    project: Project, store: Store, members: dict[str, str], directory: str, suffix: str
) -> None:
    mode = {".tar": "w", ".tar.xz": "w:xz"}.get(suffix, "w:gz")
    archive(project.inventory / f"packages/thing{suffix}", members, mode)
    write(project, "thing", f"source: {{path: thing{suffix}}}\n{SHOW}")
    where, *files = build(project, store, "thing").read_text().split()
    assert where == directory
    top = where.rpartition("/")[2] if directory.endswith("1.0") else ""
    assert files == sorted(f"./{name.removeprefix(top + '/') if top else name}" for name in members)


@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs unzip")
def test_a_zip_is_unpacked(project: Project, store: Store) -> None:
    with zipfile.ZipFile(project.file("thing.zip", ""), "w") as made:
        made.writestr("top/file", "x")
    write(project, "thing", f"source: {{path: thing.zip}}\n{SHOW}")
    assert build(project, store, "thing").read_text().split() == ["/build/top", "./file"]


def test_a_directory_is_copied_and_can_be_written_to(project: Project, store: Store) -> None:
    project.file("src/sub/file", "x").chmod(0o444)
    write(
        project, "thing", "source: {path: src}\nbuild: |\n  echo more >> sub/file; pwd >> sub/file; cp sub/file $out\n"
    )
    assert build(project, store, "thing").read_text() == "xmore\n/build/src\n"


def test_a_file_lies_beside_the_first_directory(project: Project, store: Store) -> None:
    project.file("src/file", "x")
    project.file("patch.diff", "y")
    write(project, "thing", "sources: [{path: patch.diff}, {path: src}]\nbuild: |\n  cat file ../patch.diff > $out\n")
    assert build(project, store, "thing").read_text() == "xy"


def test_inputs_are_found_by_name_and_on_every_path_in_their_order(project: Project, store: Store) -> None:
    tell = "echo 'echo '$name > $out/bin/tell; chmod 755 $out/bin/tell"
    layout = f"mkdir -p $out/bin $out/include $out/lib/pkgconfig\n  {tell}"
    for name, library in (("one-lib", "libone.a"), ("two", "libtwo.so.2")):
        write(project, name, f"build: |\n  {layout}\n  touch $out/lib/{library}\n")
    script = """
  {
      echo $one_lib $two
      tell
      echo $CPPFLAGS; echo $LDFLAGS; echo $PKG_CONFIG_PATH; echo $CMAKE_PREFIX_PATH
      echo $name $pname $version $SOURCE_DATE_EPOCH $LC_ALL
  } > $out
"""
    write(project, "top", f"inputs: [two, one-lib]\nbuild: |\n{script}")
    resolver = project.resolver()
    two, one = (resolver.resolve(name, host_system()).output for name in ("two", "one-lib"))
    assert build(project, store, "top").read_text().splitlines() == [
        f"{one} {two}",
        "two-1.0",
        f"-I{two}/include -I{one}/include",
        f"-L{two}/lib -Wl,-rpath,{two}/lib -L{one}/lib",  # nothing is loaded from the other
        f"{two}/lib/pkgconfig:{one}/lib/pkgconfig",
        f"{two}:{one}",
        "top-1.0 top 1.0 1 C",
    ]


def test_gzip_writes_no_time(project: Project, store: Store, tmp_path: Path) -> None:
    write(project, "thing", "build: |\n  echo text > file; touch -d @1234567890 file; gzip file; cp file.gz $out\n")
    (tmp_path / "plain").write_text("text\n")
    expected = subprocess.run(["gzip", "-nc", tmp_path / "plain"], capture_output=True, check=True).stdout
    assert build(project, store, "thing").read_bytes() == expected


def test_a_command_that_fails_ends_the_build(project: Project, store: Store) -> None:
    write(project, "thing", "build: |\n  touch $out\n  false\n  echo not reached\n")
    with pytest.raises(BuildError, match=r"thing-1\.0 could not be built: the builder failed with exit status 1"):
        build(project, store, "thing")


CONFIGURE = """#!/bin/sh
prefix=${1#--prefix=}
printf 'all:\\n\\techo made > result\\ninstall: all\\n\\tmkdir -p %s\\n\\tcp result %s/\\n' "$prefix" "$prefix" \\
    > Makefile
"""


def test_without_a_script_it_is_configure_make_and_make_install(project: Project, store: Store, nix: RealNix) -> None:
    project.file("src/configure", CONFIGURE).chmod(0o755)
    write(project, "thing", "source: {path: src}\n")
    assert (build(project, store, "thing") / "result").read_text() == "made\n"
    nix.verify()


def test_a_library_is_found_when_a_program_that_was_linked_to_it_runs(project: Project, store: Store) -> None:
    """C, by the compiler of the host toolchain; its run path leads into the store."""
    project.file("lib/answer.c", "int answer(void) { return 42; }\n")
    project.file("lib/answer.h", "int answer(void);\n")
    project.file("program/main.c", '#include "answer.h"\nint main(void) { return answer(); }\n')
    write(
        project,
        "answer",
        "source: {path: lib}\nbuild: |\n  mkdir -p $out/lib $out/include\n  cp answer.h $out/include\n"
        "  cc -shared -fPIC answer.c -o $out/lib/libanswer.so\n",
    )
    write(
        project,
        "ask",
        "source: {path: program}\ninputs: [answer]\nbuild: |\n  mkdir -p $out/bin\n"
        "  cc $CPPFLAGS main.c $LDFLAGS -lanswer -o $out/bin/ask\n",
    )
    program = build(project, store, "ask") / "bin/ask"
    resolver = project.resolver()
    library = resolver.resolve("answer", host_system()).output
    assert library in store.info(resolver.resolve("ask", host_system()).output).references
    # The store lies elsewhere here: the loader is told, as a mount at /nix/store would.
    environment = {"LD_LIBRARY_PATH": f"{store.real(library)}/lib"}
    assert subprocess.run([program], env=environment, check=False).returncode == 42
    assert str(library).encode() in program.read_bytes()
