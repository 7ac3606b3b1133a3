"""locking: what another run writes into the lock meanwhile stays."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.fleet import locking
from reconciler.fleet.project import Project, open_project
from reconciler.packages import lock as locks
from reconciler.transport.connection import ConnectOptions

SYSTEM = "x86_64-linux"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "inventories/shop").mkdir(parents=True)
    (tmp_path / "packages").mkdir()
    for name in ("greet", "tree"):
        (tmp_path / f"packages/{name}.yml").write_text("version: 1.0\ntoolchain: host\nbuild: mkdir $out\n")
    return tmp_path


def opened(place: Path, *packages: str) -> Project:
    """What a run has read that wants these packages, and has resolved them."""
    hosts = place / "inventories/shop/hosts.yml"
    hosts.write_text(f"all: {{hosts: {{web01: {{desired: {{packages: [{', '.join(packages)}]}}}}}}}}\n")
    environment = {"HOME": str(place), "RECONCILER_STORE": str(place / "store")}
    project = open_project(str(hosts), cwd=place, environment=environment, connect=ConnectOptions())
    for name in packages:
        project.resolver.resolve(name, SYSTEM)
    return project


def pinned(project: Project) -> list[str]:
    return sorted(reference for reference, _ in locks.load(project.lock_file, "lock").entries)


def test_two_deployments_that_began_with_the_same_lock_both_pin_what_is_new(place: Path) -> None:
    first, second = opened(place, "greet"), opened(place, "tree")
    assert [entry.reference for entry in locking.lock_new(first)] == ["greet"]
    assert [entry.reference for entry in locking.lock_new(second)] == ["tree"]
    assert pinned(first) == ["greet", "tree"]


def test_what_was_pinned_since_a_lock_was_read_stays_when_it_is_written(place: Path) -> None:
    first = opened(place, "greet")
    changes = locking.complete(first)
    locking.lock_new(opened(place, "tree"))
    locking.write(first, changes)
    assert pinned(first) == ["greet", "tree"]
    gone = locking.Changes((locking.Move(locks.load(first.lock_file, "lock").entries["tree", SYSTEM], None),))
    locking.write(first, gone)
    assert pinned(first) == ["greet"]


def test_nothing_is_written_where_nothing_moves(place: Path) -> None:
    project = opened(place, "greet")
    locking.write(project, locking.Changes(()))
    assert not project.lock_file.exists()


def test_a_run_waits_for_another_that_is_writing(place: Path) -> None:
    project = opened(place, "greet")
    (entry,) = project.resolver.unlocked()
    holder = os.open(project.lock_file.parent, os.O_RDONLY)
    assert fs.flock(holder, exclusive=True)
    writer = threading.Thread(target=locking.lock_new, args=(project,))
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    other = dataclasses.replace(entry, reference="tree", at="2026-01-01T00:00Z", by="bob")
    locks.save(locks.Lock().with_entries([other]), project.lock_file)
    os.close(holder)
    writer.join(30)
    assert not writer.is_alive()
    assert pinned(project) == ["greet", "tree"]
