"""A store that real Nix made in our hands: used, optimised, collected, verified, repaired; and given back."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.generations import Profile
from reconciler.core.store.exporting import export_paths
from reconciler.core.store.gc import GcOptions, collect
from reconciler.core.store.optimise import optimise
from reconciler.core.store.repair import repair_in_place, repair_path
from reconciler.core.store.tree import tree
from reconciler.core.store.verify import verify
from tests.core.nix.trees import TREE, write
from tests.core.store import rot
from tests.oracle import RealNix
from tests.takeover.machine import Machine

pytestmark = [pytest.mark.nix, pytest.mark.root]

PROFILE = "/nix/var/nix/profiles/default"
ALICE = "/nix/var/nix/profiles/per-user/alice/profile"

# What nix-instantiate makes of it: a graph with a source, two outputs, a fixed output, and a reference to itself.
EXPRESSION = """
let
  make = name: outputs: script: derivation {
    inherit name outputs;
    system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-ec" "PATH=/usr/bin:/bin; ${script}" ];
  };
  fixed = derivation {
    name = "fixed"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo hello > $out" ];
    outputHashMode = "flat"; outputHashAlgo = "sha256";
    outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
  };
  text = builtins.toFile "text" "a text\\n";
in {
  two = make "two-1.0" [ "out" "lib" ] ''
    mkdir -p $out/bin $lib; cp ${text} $lib/text; ln -s $lib $out/lib; ln -s ${fixed} $out/fixed
    echo $out > $out/bin/two; chmod 755 $out/bin/two
  '';
  other = make "other-2.0" [ "out" ] "mkdir -p $out/bin; echo other > $out/bin/other; cp ${text} $out/text";
  unused = make "unused" [ "out" ] "echo ${text} > $out";
}
"""


def test_we_take_over_a_store_of_real_nix(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    made = make_everything(machine, tmp_path)
    machine.agree()

    # We read it as Nix does.
    with machine.store() as store:
        profile = Profile(machine.profile("default"), store)
        assert [(one.number, one.current) for one in profile.list()] == [(1, False), (2, False), (3, True)]
        for path in made.values():
            drawn = "\n".join(line.draw() for line in tree(store, StorePath.parse(path)))
            assert drawn == machine.nix("nix-store", "-q", "--tree", path)

        # We use it: roll back, and set another generation.
        profile.switch(profile.rollback_target().number)
        assert machine.nix("nix-env", "-p", PROFILE, "-q").split() == ["other-2.0", "two-1.0"]
        number, _ = profile.record(profile.list()[0].path)
        profile.switch(number)
    assert listed(machine) == ["1", "2", "3", "4"]
    machine.agree()

    # We optimise it. Nix finds nothing left to do, and nothing wrong.
    with machine.store() as store:
        assert optimise(store).files > 0
    assert os.stat(machine.root / made["source"].lstrip("/") / "a").st_nlink > 1
    machine.agree()
    links = sorted(os.listdir(machine.root / "nix/store/.links"))
    machine.nix("nix-store", "--optimise")
    assert sorted(os.listdir(machine.root / "nix/store/.links")) == links

    collects(machine, made, tmp_path)
    repairs(machine, made)

    # And Nix goes on with it.
    machine.nix("nix-env", "-p", PROFILE, "-i", made["source"])
    machine.nix("nix-env", "-p", PROFILE, "--rollback")
    machine.nix("nix-collect-garbage", "-d")
    machine.agree()


def make_everything(machine: Machine, tmp_path: Path) -> dict[str, str]:
    """What a machine with real Nix has after a while; the paths by name."""
    (machine.home / "all.nix").write_text(EXPRESSION)
    for name in ("source", "twin"):
        write(TREE, machine.home / name)
    made = {name: machine.nix("nix-store", "--add", machine.home / name) for name in ("source", "twin")}
    for name in ("two", "other", "unused"):
        drv = machine.nix("nix-instantiate", machine.home / "all.nix", "-A", name).partition("!")[0]
        made[f"{name}.drv"] = drv
        made[name] = next(path for path in realise(machine, drv) if not path.endswith("-lib"))
    machine.nix("nix-store", "--init")
    for name in ("two", "two", "other"):  # the second installs the same again: no generation
        machine.nix("nix-env", "-p", PROFILE, "-i", made[name])
    machine.nix("nix-env", "-p", PROFILE, "--set-flag", "priority", "4", "two")
    (machine.root / ALICE.lstrip("/")).parent.mkdir(parents=True)
    machine.nix("nix-env", "-p", ALICE, "-i", made["other"])
    machine.nix("nix-store", "--realise", made["source"], "--add-root", tmp_path / "result", "--indirect")
    return made


def realise(machine: Machine, drv: str) -> list[str]:
    return machine.nix("nix-store", "--realise", drv).split()


def listed(machine: Machine) -> list[str]:
    return [line.split()[0] for line in machine.nix("nix-env", "-p", PROFILE, "--list-generations").splitlines()]


def collects(machine: Machine, made: dict[str, str], tmp_path: Path) -> None:
    """We delete exactly what Nix would."""
    for turn in range(2):
        dead = {Path(path).name for path in machine.nix("nix-store", "--gc", "--print-dead").split() if path}
        with machine.store() as store:
            told = collect(store, GcOptions())
        assert set(told.deleted) == dead
        assert machine.nix("nix-store", "--gc", "--print-dead") == ""
        there = {name for name, path in made.items() if os.path.lexists(machine.root / path.lstrip("/"))}
        gone = {"twin", "unused", "unused.drv"} | ({"source"} if turn else set())
        assert there == set(made) - gone
        machine.agree()
        if turn == 0:
            (tmp_path / "result").unlink()
    made["source"] = machine.nix("nix-store", "--add", machine.home / "source")
    for name in ("twin", "unused", "unused.drv"):
        del made[name]
    machine.nix("nix-store", "--realise", made["source"], "--add-root", tmp_path / "result", "--indirect")
    with machine.store() as store:
        optimise(store)


def repairs(machine: Machine, made: dict[str, str]) -> None:
    """What rots is found by both, and mended from an export by Nix."""
    with machine.store() as store:
        paths = store.closure(map(StorePath.parse, made.values()))
        archives = {path: b"".join(store.nar(path)) for path in paths}
        for path in paths:
            spoil(Path(store.real(path)))
        with pytest.raises(AssertionError):
            RealNix(machine.root).verify()
        found = verify(store).findings
        assert {each.path for each in found if each.kind == "changed"} == set(map(str, paths))
        for path in paths:
            repair_path(store, io.BytesIO(archives[path]), store.info(path))
        rot.open_a_file(Path(store.real(StorePath.parse(made["source"]))))
        assert [each.kind for each in verify(store).findings] == ["mode"]
        assert repair_in_place(store, StorePath.parse(made["source"]))
        stream = io.BytesIO()
        export_paths(store, paths, stream.write)
    machine.agree()
    assert RealNix(machine.root).run("nix-store", "--export", *map(str, paths)).stdout == stream.getvalue()


def spoil(real: Path) -> None:
    """Change the first file or link of a path, in place where it is a file."""
    files = [real] if real.is_symlink() or not real.is_dir() else sorted(each for each in real.rglob("*"))
    first = next((each for each in files if each.is_file() and not each.is_symlink()), None)
    if first is not None:
        with rot.unlocked(first), open(first, "ab") as file:
            file.write(b"rot")
        return
    link = next(each for each in files if each.is_symlink())
    with rot.unlocked(link.parent):
        link.unlink()
        link.symlink_to("/elsewhere")
