"""Programs of every origin, by one command each: built here, on the target, on a third host, or taken from a cache.

The store paths and their contents are the same, and the program runs. Two of the four targets have Nix, which wrote to
their stores first; the others and the builder have none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.packages import deb_archive
from tests.channels import debian
from tests.e2e.test_build_on import built_in, held, other_store
from tests.e2e.test_gnu import HELLO, administrator_of
from tests.hosts.host import Fleet, Options, TestHost, make_fleet
from tests.oracle import RealNix
from tests.packages import bare
from tests.packages.channel import X86

pytestmark = [pytest.mark.root, pytest.mark.nix, pytest.mark.network]

TARGETS = ("here", "there", "third", "cached")  # the places; the host of each has its name
WITH_NIX = ("here", "third")

# What an expression of people without nixpkgs can be: it brings its shell and its tools along.
EXPRESSION = """\
{ system ? builtins.currentSystem, version ? "2.1" }:
let
  tools = ./tools;
  run = name: script: derivation {
    inherit system tools;
    name = "${name}-${version}";
    builder = "${tools}/busybox";
    args = [ "sh" "-ec" script ];
  };
in rec {
  words = run "words" "echo words of Nix ${version} > $out";
  greet = run "greet" ''
    $tools/busybox mkdir -p $out/bin
    echo "#!$tools/busybox sh" > $out/bin/greet
    echo "while read -r line; do echo \\"hello, \\$line\\"; done < ${words}" >> $out/bin/greet
    $tools/busybox chmod 755 $out/bin/greet
  '';
}
"""
FLAKE = """\
{ outputs = { self }: { packages.x86_64-linux = import ./default.nix { system = "x86_64-linux"; version = "2.2"; }; }; }
"""
SETS = """\
sets:
  - recipes: packages/
  - expression: {nix: nix/default.nix}
  - flake: {flake: "path:./nix"}
"""


Command = tuple[str, ...]

C_PARSER = "import sys; sys.path[:0] = ['@pyyaml-6.0.2@/lib/python']; import yaml; print(yaml.__with_libyaml__)"
# The second word of bytecode that is taken as it is, whatever the times of its source.
BYTECODE = (
    "import glob, json; files = glob.glob(json.__file__.partition('json/')[0] + '**/*.pyc', recursive=True); "
    "print(len(files) > 500, all(open(file, 'rb').read()[4] == 1 for file in files))"
)


@dataclass(frozen=True)
class Case:
    """What is deployed together, and what it says.

    packages   references, by the names of what is built for them
    says       what commands print in a login shell of the host
    alone      a package, a program of it or one by its path, with arguments, and a pattern of what it prints where
               there is nothing but the package's closure; @NAME-VERSION@ stands for a store path
    shared     inputs that take long, by their outputs' names: built once, and then brought to the other places
    """

    packages: dict[str, str]
    says: dict[str, str]
    alone: dict[Command, str]
    shared: tuple[str, ...] = ()


CASES = {
    "Python from source, an application from wheels, a static program and a script that runs them": Case(
        {
            "python3-3.11.2": "python3",
            "yamllint-1.37.1": "yamllint",
            "shfmt-3.14.1": "shfmt",
            "lint-1.0": "lint",
        },
        {
            "yamllint --version": "yamllint 1.37.1\n",
            "mkdir -p /tmp/l && cd /tmp/l && echo 'a:  1' > a.yaml && echo 'if x;then y;fi' > b.sh; lint": "b.sh\n"
            './a.yaml:1:1: [warning] missing document start "---" (document-start)\n'
            "./a.yaml:1:4: [error] too many spaces after colon (colons)\n",
        },
        {
            ("shfmt-3.14.1", "shfmt", "--version"): "v3.14.1\n",
            ("yamllint-1.37.1", "yamllint", "--version"): "yamllint 1.37.1\n",
            # Its parser in C comes from a third store path, and finds what it needs by the Python that loads it.
            # -B: root can write to the store there, and Python would.
            ("yamllint-1.37.1", "@python3-3.11.2@/bin/python3", "-IBc", C_PARSER): "True\n",
            ("lint-1.0", "lint", "/proc/tty"): "$",
            ("python3-3.11.2", "python3", "-IBc", BYTECODE): "True True\n",
        },
    ),
    "hello": Case({"hello-2.10": "hello"}, {"hello": HELLO}, {("hello-2.10", "hello"): HELLO}),
    "tree, units and which": Case(
        {"tree-2.1.0": "tree", "units-2.22": "units", "gnu-which-2.21": "gnu-which"},
        {
            "mkdir -p /tmp/t/a && cd /tmp/t && tree --noreport --charset ascii": ".\n`-- a\n",
            "units -t kilometer meter": "1000\n",
            "which units": "/run/current-system/sw/bin/units\n",
        },
        {
            ("tree-2.1.0", "tree", "--noreport", "-L", "1", "/nix"): "/nix\n`-- store\n",
            ("units-2.22", "units", "-t", "mile", "km"): r"1\.609344\n",
            ("gnu-which-2.21", "which", "--version"): r"GNU which v2\.21",
        },
    ),
    "less": Case(
        {"less-590": "less"},
        {"echo page | less": "page\n"},
        {("less-590", "less", "--version"): "less 590 "},
        ("ncurses-6.4", "ncurses-6.4-dev"),
    ),
    "jq, and a script that runs it and tree": Case(
        {"jq-1.6": "jq", "largest-1.0": "largest"},
        {
            "jq -n '[6, 7] | .[0] * .[1]'": "42\n",
            "mkdir -p /tmp/m && cd /tmp/m && echo a > a && echo abc > b && largest .": "4\t./b\n2\t./a\n",
        },
        {
            ("jq-1.6", "jq", "-nc", '"ab" | [test("^a.$")]'): r"\[true\]\n",
            ("largest-1.0", "largest", "/nix", "1"): r"\d+\t/nix/store/",
        },
        ("oniguruma-6.9.8", "oniguruma-6.9.8-dev"),
    ),
    "a Nix expression": Case(
        {"greet-2.1": "expression:greet"},
        {"greet": "hello, words of Nix 2.1\n"},
        {("greet-2.1", "greet"): "hello, words of Nix 2.1\n"},
    ),
    "a flake": Case(
        {"greet-2.2": "flake:greet"},
        {"greet": "hello, words of Nix 2.2\n"},
        {("greet-2.2", "greet"): "hello, words of Nix 2.2\n"},
    ),
}
QUICK = "a Nix expression"


class Places:
    """The hosts, the controllers' stores and the project, for as long as the module's tests last: what the programs
    share, a toolchain above all, comes to each place once."""

    def __init__(self, directory: Path, hosts: Fleet) -> None:
        self.hosts = hosts
        for host in self.hosts:
            if host.name in WITH_NIX:
                host.nix("nix-store", "--add", "/etc/hostname")
            else:
                _hide_nix(host)
        self.admin = administrator_of(self.hosts, directory)
        self._fetched = self.admin.environment["XDG_CACHE_HOME"]
        self.inventory = Path(self.admin.environment["RECONCILER_INVENTORY"])
        self.admin.run("key", "generate", "test-1", "--out", str(self.admin.home))

    def _write_expression(self) -> None:
        """A folder `nix` in the project, which is an expression and a flake."""
        place = self.admin.directory / "nix"
        place.mkdir()
        (place / "default.nix").write_text(EXPRESSION)
        (place / "flake.nix").write_text(FLAKE)
        package = debian.fetch(X86, ["busybox-static"])["busybox-static"]
        (busybox,) = (each for each in deb_archive.read(package.file) if each.parts[-2:] == ("bin", "busybox"))
        (place / "tools").mkdir()
        (place / "tools/busybox").write_bytes(busybox.contents)
        (place / "tools/busybox").chmod(0o755)

    def want(self, references: Sequence[str]) -> None:
        """What every host wants. Only what is fetched is kept from one run of the tests to the next: what Nix evaluates
        and keeps is of this run."""
        evaluated = any(":" in reference for reference in references)
        if evaluated and not (self.admin.directory / "nix").exists():
            self._write_expression()
        self.admin.environment["XDG_CACHE_HOME"] = str(self.admin.directory / "cache") if evaluated else self._fetched
        settings = {
            "ansible_user": "root",
            "ansible_ssh_common_args": "-F '{{ inventory_dir }}/.lab/ssh_config'",
            "desired": {"packages": list(references)},
        }
        names = dict.fromkeys(host.name for host in self.hosts)
        (self.inventory / "hosts.yml").write_text(json.dumps({"all": {"vars": settings, "hosts": names}}))

    def controller(self, name: str, *caches: Path) -> Path:
        """Another controller types: its store is `name`, and these are the caches."""
        key = (self.admin.home / "test-1.public").read_text().strip()
        listed = [{"url": f"file://{cache}", "key": key} for cache in caches]
        (self.admin.directory / "reconciler.yml").write_text(f"{self._sets()}caches: {json.dumps(listed)}\n")
        return other_store(self.admin, f"store-{name}")

    def _sets(self) -> str:
        return SETS if (self.admin.directory / "nix").exists() else ""

    def push(self, place: Path, *references: str) -> Path:
        """A cache of what the controller has, or makes now."""
        secret = str(self.admin.home / "test-1.secret")
        self.admin.run("cache", "push", "--to", str(place), "--key", secret, *references, timeout=1800)
        return place

    def deploy(self, host: str, *words: str) -> TestHost:
        self.admin.run("deploy", "--hosts", host, "--yes", *words, timeout=1800)
        return self.hosts[host]


def _hide_nix(host: TestHost) -> None:
    """The host has no Nix until it stops: all of its programs are one file, which cannot be run there."""
    done = host.run(": > /opt/nothing && mount --bind /opt/nothing $(readlink -f /usr/bin/nix)")
    assert done.returncode == 0, done.stderr
    assert host.ssh("nix-store --version").returncode == 126


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    directory = tmp_path_factory.mktemp("places")
    hosts = make_fleet(directory / "fleet", [*TARGETS, "builder"], Options())
    try:
        yield Places(directory, hosts)
    finally:
        hosts.close()


@pytest.mark.parametrize(
    "name", [QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in CASES if each != QUICK)]
)
def test_it_is_the_same_built_here_there_on_a_third_host_and_substituted(
    places: Places, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    made = set(case.packages)
    places.want(list(case.packages.values()))

    here = places.controller("here")
    places.deploy("here", "--build-on", "controller")
    assert made <= set(built_in(here))
    cache = places.push(tmp_path / "cache", *case.packages.values())

    store = places.controller("there")
    _bring(case.shared, here, places.hosts["there"].root)
    assert made <= set(built_in(places.deploy("there", "--build-on", "target").root))
    assert not made & set(built_in(store))

    third = places.controller("third")
    _bring(case.shared, here, third)
    root = places.deploy("third", "--build-on", "builder").root
    assert made <= set(built_in(places.hosts["builder"].root))
    assert not made & {*built_in(third), *built_in(root)}

    cached = places.controller("cached", cache)
    root = places.deploy("cached").root
    assert not made & {*built_in(cached), *built_in(root)}

    wanted = held(places.hosts["here"])
    assert {path.partition("-")[2] for path in wanted} >= made
    for host in (places.hosts[each] for each in TARGETS):
        assert held(host) == wanted, host.name
        for command, said in case.says.items():
            done = host.run(["bash", "-lc", command])
            assert (done.stdout, done.stderr) == (said, ""), f"{host.name}: {command}"
    for number, (words, said) in enumerate(case.alone.items()):
        assert re.match(said, _alone(tmp_path / f"alone{number}", cached, wanted, *words))
    for each in (here, third, cached, *(host.root for host in places.hosts)):
        RealNix(each).verify()


def _bring(names: Sequence[str], source: Path, target: Path) -> None:
    """Copy store paths, with all that they refer to, from one store to another."""
    if not names:
        return
    found = {path.name.partition("-")[2]: path for path in (source / "nix/store").iterdir()}
    with Store.open(str(source)) as have, Store.open(str(target), create=True) as store, store.batch() as batch:
        for each in have.closure([StorePath.parse(f"/nix/store/{found[name].name}") for name in names]):
            if not store.is_valid(each):
                batch.add_nar(have.info(each), nar.ChunkReader(have.nar(each)))


def _alone(directory: Path, root: Path, paths: Iterable[str], package: str, program: str, *words: str) -> str:
    """What a program prints where there is nothing but its package's closure."""
    named = {each.partition("-")[2]: each for each in paths}
    path = StorePath.parse(named[package])
    given = [re.sub("@(.+?)@", lambda found: named[found[1]], word) for word in (program, *words)]
    with Store.open(str(root)) as store:
        return bare.run(directory, store, [path], os.path.join(f"{path}/bin", given[0]), *given[1:])
