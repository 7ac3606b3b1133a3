"""The packages of inventories/demo: they build in no time, without a compiler, and do what the demo shows."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.build.realise import BuildEvent, BuildOptions, realise
from reconciler.core.build.toolchain import host_system
from reconciler.core.store.store import Store
from reconciler.packages.instantiate import instantiate
from reconciler.packages.model import Package
from reconciler.packages.resolver import Resolver
from tests.conftest import make_writable
from tests.core.build.helpers import PROJECT
from tests.oracle import RealNix

REFERENCES = ("shell-kit", "phrases", "hostcard", "tally", "ledger", "site@1.0", "site@1.1", "site@2.0")


class Demo:
    """The packages, built into a store."""

    def __init__(self, root: Path) -> None:
        resolver = Resolver(PROJECT, PROJECT / "inventories/demo")
        self.root = root
        self.names = resolver.names()
        self.packages: dict[str, Package] = {name: resolver.resolve(name, host_system()) for name in REFERENCES}
        self.seconds: dict[str, float] = {}
        self.references: dict[str, set[str]] = {}
        with Store.open(str(root), create=True) as store:
            instantiate(resolver.graph(self.packages.values()), store)
            wanted = [package.derivation for package in self.packages.values() if package.derivation is not None]
            realise(store, wanted, BuildOptions(on_event=self._watch))
            for name, package in self.packages.items():
                self.references[name] = {path.name for path in store.info(package.output).other_references}

    def _watch(self, event: BuildEvent) -> None:
        now = time.monotonic()
        if event.kind == "start":
            self.seconds[event.derivation] = now
        elif event.kind == "done":
            self.seconds[event.derivation] = now - self.seconds[event.derivation]

    def run(self, reference: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of a package with this store at /nix/store, in a namespace of its own."""
        program, *arguments = command
        script = f'mount --bind "{self.root}/nix/store" /nix/store && exec "$@"'
        target = f"{self.packages[reference].output}/bin/{program}"
        return subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", target, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    root = tmp_path_factory.mktemp("demo") / "root"
    root.mkdir()
    yield Demo(root)
    RealNix(root).verify()
    make_writable(root)


def test_there_are_six_of_them_and_one_comes_in_several_versions(demo: Demo) -> None:
    assert len(demo.names) == 6
    assert {package.name for package in demo.packages.values()} == set(demo.names)


def test_each_is_built_in_well_under_a_second(demo: Demo) -> None:
    assert len(demo.seconds) == len(REFERENCES)
    assert sum(demo.seconds.values()) / len(demo.seconds) < 0.5


def test_they_depend_on_each_other(demo: Demo) -> None:
    assert demo.references["site@1.1"] == {"shell-kit-1.2"}
    assert demo.references["ledger"] == {"tally-1.0", "phrases-3.1"}
    assert demo.references["tally"] == {"shell-kit-1.2"}


runs = pytest.mark.skipif(not os.path.isdir("/nix/store"), reason="needs the mount point /nix/store")


@runs
@pytest.mark.parametrize(
    ("reference", "command", "answer"),
    [
        ("site@1.0", ("site", "version"), "site 1.0\n"),
        ("site@1.1", ("site", "check"), "site         1.1 is well\n"),
        ("ledger", ("ledger",), "accounts.txt 3\n"),
        ("ledger", ("ledger", "balance"), "640\nSo long\n"),
    ],
)
def test_they_do_what_the_demo_shows(demo: Demo, reference: str, command: tuple[str, ...], answer: str) -> None:
    done = demo.run(reference, *command)
    assert (done.stdout, done.stderr, done.returncode) == (answer, "", 0)


@runs
def test_the_pages_of_two_versions_differ(demo: Demo) -> None:
    old, new = (demo.run(reference, "site").stdout for reference in ("site@1.0", "site@1.1"))
    assert "<h1>Come in</h1>" in old
    assert "from nine to five" in old
    assert "on Saturdays" in new


@runs
def test_the_bad_upgrade_builds_and_fails_when_it_runs(demo: Demo) -> None:
    done = demo.run("site@2.0", "site", "check")
    assert (done.returncode, done.stderr) == (1, "site: the page has no heading\n")
    assert demo.run("site@2.0", "site", "version").returncode == 0


@runs
def test_the_host_card_names_the_host(demo: Demo) -> None:
    assert f"host         {os.uname().nodename}\n" in demo.run("hostcard", "hostcard").stdout
