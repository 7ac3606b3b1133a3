"""The toolchain that comes along, from Debian's archive: what it builds runs where there is only the store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler.core.build import elf
from reconciler.core.build.events import BuildOptions
from reconciler.core.build.realise import realise
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import BuildError
from reconciler.core.store.store import Store
from reconciler.inventory.desired import Position
from reconciler.packages import downloads, toolchain_sources
from reconciler.packages.instantiate import instantiate
from reconciler.packages.model import Package
from reconciler.packages.toolchain import Toolchain
from tests.core.build.helpers import PROJECT
from tests.oracle import RealNix
from tests.packages import bare
from tests.packages.project import Project

pytestmark = [
    pytest.mark.nix,
    pytest.mark.network,
    pytest.mark.skipif(host_system() != "x86_64-linux", reason="the toolchain that comes along is for x86_64-linux"),
]

HERE = Position("recipe.yml", 1, 1)
CPP = r"""#include <iostream>
#include <map>
#include <stdexcept>
#include <thread>
int main() {
    std::map<std::string, int> counts{{"one", 1}, {"two", 2}};
    try { throw std::runtime_error("thrown"); }
    catch (const std::exception &error) { std::cout << error.what() << ' ' << counts.at("two"); }
    std::thread([] { std::cout << " threaded\n"; }).join();
}
"""
SEVEN = """version: 1
toolchain: debian-12
source: {path: library.c}
build: |
  mkdir -p $out/lib
  gcc -shared -fPIC -o $out/lib/libseven.so library.c
"""
COUNTED = """version: 1
toolchain: debian-12
source: {path: counted.cc}
inputs: [seven]
build: |
  mkdir -p $out/bin
  c++ -o $out/bin/counted counted.cc $LDFLAGS -Wl,--no-as-needed -lseven
  c++ -static -o $out/bin/alone counted.cc
"""
REPORT = '#!/usr/bin/env bash\nset -eu\nread -r words < <(hello)\necho "report: $words"\ncounted\n'


@pytest.fixture
def made(project: Project) -> Project:
    """GNU hello and tree from source, a C++ program with a library of its own, and a script that runs two of them."""
    project.recipe("hello", (PROJECT / "inventories/gnu/packages/hello.yml").read_text())
    project.recipe("tree", (PROJECT / "inventories/gnu/packages/tree.yml").read_text())
    project.file("counted.cc", CPP)
    project.file("library.c", "int seven(void) { return 7; }\n")
    project.recipe("seven", SEVEN)
    project.recipe("counted", COUNTED)
    project.file("report.sh", REPORT)
    script = "version: 1\ntoolchain: debian-12\nkind: script\nsource: {path: report.sh}\nruntime: [hello, counted]\n"
    project.recipe("report", script)
    return project


def resolved(project: Project, *names: str) -> Sequence[Package]:
    resolver = project.resolver()
    return [resolver.resolve(name, host_system()) for name in names]


def build(project: Project, store: Store, *names: str) -> Sequence[Package]:
    resolver = project.resolver()
    packages = [resolver.resolve(name, host_system()) for name in names]
    instantiate(resolver.graph(packages), store)
    realise(store, [package.derivation for package in packages if package.derivation], BuildOptions(jobs=2))
    return packages


def libraries(project: Project) -> str:
    toolchain = project.resolver().toolchains.find("debian-12", host_system(), HERE)
    return f"{toolchain.libc.path}/{toolchain.libraries}"


def sandbox_paths(toolchain: Toolchain, root: Path) -> str:
    """What real Nix is told, so that a build sees with it what it sees with us."""
    real = f"{root}{toolchain.tools.path}"
    inner = (f"/{name}={real}/{name}" for name in ("bin", "lib", "lib64"))
    # Nix kills whatever else runs as its build user, such as the build of a test beside this one: it gets none.
    return f"sandbox-paths = /usr={real} {' '.join(inner)}\nbuild-users-group ="


def test_what_is_built_runs_where_there_is_only_the_store_and_nix_builds_the_same(
    made: Project, store: Store, nix: RealNix, tmp_path: Path
) -> None:
    hello, tree, counted, report = build(made, store, "hello", "tree", "counted", "report")
    toolchain = made.resolver().toolchains.find("debian-12", host_system(), HERE)
    ran = {
        "hello": bare.run(tmp_path / "1", store, [hello.output], f"{hello.output}/bin/hello"),
        "tree": bare.run(tmp_path / "2", store, [tree.output], f"{tree.output}/bin/tree", "--version"),
        "counted": bare.run(tmp_path / "3", store, [counted.output], f"{counted.output}/bin/counted"),
        "alone": bare.run(tmp_path / "4", store, [counted.output], f"{counted.output}/bin/alone"),
        "report": bare.run(tmp_path / "5", store, [report.output], f"{report.output}/bin/report"),
    }
    assert ran["hello"] == "Hello, world!\n"
    assert ran["tree"].startswith("tree v2.1.0 ")
    assert ran["counted"] == ran["alone"] == "thrown 2 threaded\n"
    assert ran["report"] == "report: Hello, world!\nthrown 2 threaded\n"
    assert toolchain.tools.path not in store.closure([report.output]), "a compiler is no part of what it made"

    packages = [hello, tree, counted, report]
    oracle = RealNix(tmp_path / "oracle", sandbox=True, config=sandbox_paths(toolchain, tmp_path / "oracle"))
    with Store.open(str(oracle.root), create=True) as other:
        resolver = made.resolver()
        instantiate(resolver.graph([resolver.resolve(package.name, host_system()) for package in packages]), other)
    derivations = [str(package.derivation) for package in packages]
    outputs = oracle.output("nix-store", "--realise", "-j2", *derivations).split()
    assert outputs == [str(package.output) for package in packages]
    for question in ("--hash", "--references"):
        ours = nix.output("nix-store", "--query", question, *outputs)
        assert ours == oracle.output("nix-store", "--query", question, *outputs)
    nix.verify()
    oracle.verify()


AUTOCONF = r"""AC_INIT([counter], [1.0])
AM_INIT_AUTOMAKE([foreign])
LT_INIT([disable-static])
AC_PROG_CC
AC_SEARCH_LIBS([seven], [seven], [], [AC_MSG_ERROR([no libseven])])
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
"""
AUTOMAKE = """lib_LTLIBRARIES = libcounter.la
libcounter_la_SOURCES = library.c
bin_PROGRAMS = counter
counter_SOURCES = main.c
counter_LDADD = libcounter.la
"""
COUNTER = """version: 1.0
toolchain: debian-12-autotools
source: {path: counter}
inputs: [seven]
build: |
  autoreconf -fi
  ./configure --prefix=$out
  make
  make install
"""


def test_a_source_without_configure_is_built_and_shares_its_libc_with_what_was_built_without_autotools(
    made: Project, store: Store, tmp_path: Path
) -> None:
    sources = {
        "configure.ac": AUTOCONF,
        "Makefile.am": AUTOMAKE,
        "library.c": "int seven(void);\nint count(void) { return 6 * seven(); }\n",
        "main.c": '#include <stdio.h>\nint count(void);\nint main(void) { printf("%d\\n", count()); }\n',
    }
    for name, text in sources.items():
        made.file(f"counter/{name}", text)
    made.recipe("counter", COUNTER)
    (counter,) = build(made, store, "counter")
    assert bare.run(tmp_path / "1", store, [counter.output], f"{counter.output}/bin/counter") == "42\n"
    assert {path.name for path in store.closure([counter.output])} == {"counter-1.0", "seven-1", "debian-12-libc"}


def test_a_wheel_without_any_python_is_told_what_to_do(project: Project, store: Store) -> None:
    project.file("app-1-py3-none-any.whl", "")
    source = "source: {path: app-1-py3-none-any.whl}"
    project.recipe("app", f"version: 1\ntoolchain: debian-12\nkind: python-app\n{source}\n")
    with pytest.raises(BuildError) as error:
        build(project, store, "app")
    said = "wheels need an input with bin/python3: `reconciler packages new python3`, then `inputs: [python3]`"
    assert said in error.value.message


BROKEN = r"""version: 1
toolchain: debian-12
source: {path: library.c}
build: |
  mkdir -p $out/bin $out/lib
  gcc -shared -fPIC -o $out/lib/libseven.so library.c
  echo 'int seven(void); int main(void) { return seven(); }' > main.c
  gcc -o $out/bin/lost main.c -L$out/lib -lseven
  gcc -o $out/bin/found main.c -L$out/lib -lseven -Wl,-rpath,'$ORIGIN/../lib'
  cp /bin/true $out/bin/copied
  printf '#!/usr/bin/perl -w\n' > $out/bin/script
  printf '#! /bin/sh\nexit 0\n' > $out/bin/fine
  printf '#!/usr/bin/env -S bash -e\nexit 0\n' > $out/bin/fine-too
  chmod 555 $out/bin/*
"""


def test_a_build_whose_closure_is_not_complete_fails_and_names_every_file(made: Project, store: Store) -> None:
    made.recipe("broken", BROKEN)
    with pytest.raises(BuildError) as error:
        build(made, store, "broken")
    (package,) = resolved(made, "broken")
    told = error.value.message.partition("only the store:\n")[2].splitlines()
    out = package.output
    assert told[:3] == [
        f"  {out}/bin/copied is loaded by /lib64/ld-linux-x86-64.so.2, which is not in /nix/store",
        f"  {out}/bin/copied needs libc.so.6, which is in no directory of its run path: it has none",
        f"  {out}/bin/lost needs libseven.so, which is in no directory of its run path ({libraries(made)})",
    ]
    assert told[3] == f"  {out}/bin/script is run by /usr/bin/perl -w, which is not in /nix/store"
    assert len(told) == 4
    assert "-Wl,-rpath,$NAME/lib" in (error.value.hint or "")
    assert not store.is_valid(out)


LOADER = r"""#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **words) {
    void *found = count > 1 ? dlopen(words[1], RTLD_NOW) : NULL;
    double (*half)(double) = found ? (double (*)(double)) dlsym(found, "half") : NULL;
    if (!half) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    printf("%.2f\n", half(1.5));
}
"""
# Made as a wheel's libraries are, which come without any run path.
PLUGIN = """version: 1
toolchain: debian-12
source: {path: plugin.c}
inputs: [loader]
build: |
  mkdir -p $out/lib $out/nix-support
  gcc -shared -fPIC -Wl,--no-dynamic-linker -o $out/lib/plugin.so plugin.c -Wl,--no-as-needed -lgomp -lm
  echo $loader/bin/loader > $out/nix-support/SAID
"""


def test_a_library_without_a_run_path_finds_its_own_by_the_program_that_loads_it(
    made: Project, store: Store, tmp_path: Path
) -> None:
    made.file("loader.c", LOADER)
    build_it = "mkdir -p $out/bin; gcc -o $out/bin/loader loader.c"
    made.recipe("loader", f"version: 1\ntoolchain: debian-12\nsource: {{path: loader.c}}\nbuild: {build_it}\n")
    made.file("plugin.c", "#include <math.h>\ndouble half(double given) { return floor(given) / 2; }\n")
    made.recipe("plugin", PLUGIN.replace("SAID", "loaded-by"))
    (plugin,) = build(made, store, "plugin")
    (loader,) = resolved(made, "loader")
    program = f"{loader.output}/bin/loader"
    assert {path.name for path in store.closure([plugin.output])} == {"plugin-1", "loader-1", "debian-12-libc"}
    shown = bare.run(tmp_path / "1", store, [plugin.output], program, f"{plugin.output}/lib/plugin.so")
    assert shown == "0.50\n"
    made.recipe("plugin", PLUGIN.replace("SAID", "said-nowhere"))
    with pytest.raises(BuildError, match=r"plugin\.so needs libgomp\.so\.1, which is in no directory of its run path"):
        build(made, store, "plugin")


SHIPPED = [
    ("debian-12", "x86_64-linux"),
    pytest.param("debian-12", "aarch64-linux", marks=pytest.mark.slow),
    pytest.param("debian-12-autotools", "x86_64-linux", marks=pytest.mark.slow),
    pytest.param("debian-12-autotools", "aarch64-linux", marks=pytest.mark.slow),
]
MACHINES = {"x86_64-linux": 62, "aarch64-linux": 183}  # e_machine of ELF


@pytest.mark.parametrize(("name", "system"), SHIPPED)
def test_the_trees_are_what_is_pinned_and_every_program_in_them_finds_its_libraries(
    project: Project, store: Store, name: str, system: str
) -> None:
    """Else a hash is wrong, or something was dropped, or left out, that is needed."""
    toolchain = project.resolver().toolchains.find(name, system, HERE)
    for source in toolchain_sources.sources(toolchain):
        source.add_to(store)
    assert Path(store.real(toolchain.libc.path), toolchain.loader).is_file()
    for tree in toolchain.trees:
        top = Path(store.real(tree.path))
        places = [top / folder for folder in ("lib", toolchain.libraries, "lib64")]
        programs = {file: loaded for file in top.rglob("*") if (loaded := loading(file)) is not None}
        lacking = {
            f"{file.relative_to(top)} needs {needed}"
            for file, loaded in programs.items()
            for needed in loaded.needed
            if not any((place / needed).exists() for place in places)
        }
        assert not lacking
        assert programs
        assert {machine(file) for file in programs} == {MACHINES[system]}


def machine(file: Path) -> int:
    with file.open("rb") as stream:
        return int.from_bytes(stream.read(20)[18:], "little")


def loading(file: Path) -> elf.Loaded | None:
    if file.is_symlink() or not file.is_file():
        return None
    with file.open("rb") as stream:
        return elf.read(stream.fileno())


def test_it_builds_where_one_uid_is_all_that_there_is(made: Project, tmp_path: Path) -> None:
    (counted,) = resolved(made, "counted")
    (made.inventory / "hosts.yml").write_text("all: {hosts: {one: }}\n")
    root = tmp_path / "one"
    environment = {
        **os.environ,
        "RECONCILER_STORE": str(root),
        "XDG_CACHE_HOME": str(downloads.cache_directory().parent),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    command = [sys.executable, "-m", "reconciler.cli.main", "build", "counted", "-i", str(made.inventory)]
    user = ["unshare", "--user", "--map-root-user"]
    done = subprocess.run(
        [*user, *command], env=environment, capture_output=True, text=True, check=False, cwd=made.root
    )
    assert done.returncode == 0, done.stderr
    with Store.open(str(root)) as store:
        assert store.is_valid(counted.output)
        assert bare.run(tmp_path / "b", store, [counted.output], f"{counted.output}/bin/counted").startswith("thrown")
    RealNix(root).verify()
    shutil.rmtree(root, ignore_errors=True)
