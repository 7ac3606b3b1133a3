"""A store that we made, of all that we can make, in the hands of real Nix: used, optimised, collected, built on."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from reconciler.core.build.realise import realise
from reconciler.core.build.toolchain import host_system, host_toolchain
from reconciler.core.nix import nar, store_path
from reconciler.core.nix.derivation import Derivation, Output, with_outputs
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import Element, environment
from reconciler.core.profile.generations import Profile
from reconciler.core.store import content_address
from reconciler.core.store.exporting import import_paths
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from tests.core.nix.trees import TREE, write
from tests.core.profile.packages import package
from tests.oracle import RealNix
from tests.takeover.machine import Machine

pytestmark = [pytest.mark.nix, pytest.mark.root]

PROFILE = "/nix/var/nix/profiles/tools"
LEFT = "00000000000000000000000000000000-left"


def test_real_nix_takes_over_a_store_of_ours(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    made = make_everything(machine, tmp_path)
    machine.agree(LEFT)

    # Generations, by number and by what is in them.
    assert generations(machine) == [("1", False), ("2", True)]
    assert machine.nix("nix-env", "-p", PROFILE, "-q").split() == ["a-1.0", "b-1.0"]
    machine.nix("nix-env", "-p", PROFILE, "--rollback")
    assert machine.nix("nix-env", "-p", PROFILE, "-q").split() == ["a-1.0"]
    machine.agree(LEFT)

    # Installing: one of ours in place of its older version, one by name out of two outputs, one that Nix builds itself.
    machine.nix("nix-env", "-p", PROFILE, "-i", made["a-2.0"])
    machine.nix("nix-env", "-p", PROFILE, "-i", made["two"])
    machine.nix("nix-env", "-p", PROFILE, "-if", built_on(machine, made["two"]))
    assert machine.nix("nix-env", "-p", PROFILE, "-q").split() == ["a-2.0", "on-top", "two"]
    assert generations(machine) == [("1", False), ("2", False), ("3", False), ("4", False), ("5", True)]
    machine.agree(LEFT)

    # What Nix did is what we read.
    with machine.store() as store:
        profile = Profile(machine.profile("tools"), store)
        assert [(one.number, one.current) for one in profile.list()] == [(n, n == 5) for n in range(1, 6)]
        assert store.is_valid(StorePath.parse(profile.list()[-1].path))

    # Nothing of it changes by optimising; and only what nobody needs goes.
    machine.nix("nix-store", "--optimise")
    assert os.stat(machine.root / made["big-1"].lstrip("/")).st_nlink > 2
    machine.agree(LEFT)
    machine.nix("nix-store", "--gc")
    everything = set(made.values()) - {made["garbage"]}
    assert {path for path in made.values() if not os.path.lexists(machine.root / path.lstrip("/"))} == {made["garbage"]}
    assert LEFT not in os.listdir(machine.root / "nix/store")
    machine.agree()

    # Old generations, roots and links go one after the other, and with each what only it kept.
    kept = {made[name] for name in ("two", "two-lib", "a-2.0", "leaf")}
    machine.nix("nix-env", "-p", PROFILE, "--delete-generations", "old")
    (tmp_path / "result").unlink()
    for root in ("everything", "more/self"):
        (machine.root / "nix/var/nix/gcroots" / root).unlink()
    machine.nix("nix-store", "--gc")
    assert {path for path in everything if os.path.lexists(machine.root / path.lstrip("/"))} == kept
    machine.agree()


def generations(machine: Machine) -> list[tuple[str, bool]]:
    lines = machine.nix("nix-env", "-p", PROFILE, "--list-generations").splitlines()
    return [(line.split()[0], line.rstrip().endswith("(current)")) for line in lines]


def make_everything(machine: Machine, tmp_path: Path) -> dict[str, str]:
    """Every kind of path and root that we can make; their paths by name."""
    paths: dict[str, StorePath] = {}
    with Store.open(str(machine.root), create=True) as store:
        for make in (texts_and_sources, packages, outputs, self_reference):
            paths.update(make(store))
        paths.update(imports(store, tmp_path))
        for number, names in enumerate((["a-1.0"], ["a-1.0", "b-1.0"]), 1):
            paths[f"environment-{number}"] = install(machine, store, [paths[name] for name in names])
        kept = [path for name, path in paths.items() if name not in ("garbage", "self", "imported")]
        store.add_root("everything", store.add_text("everything", b"", kept))
        store.add_root("more/self", paths["self"])
        (tmp_path / "result").symlink_to(str(paths["imported"]))
        store.add_indirect_root(str(tmp_path / "result"))
        Path(store.store_dir, LEFT).write_text("an import that was killed")
    return {name: str(path) for name, path in paths.items()}


def texts_and_sources(store: Store) -> dict[str, StorePath]:
    leaf = store.add_text("leaf", b"a leaf\n")
    big = b"the same in several files\n" * 1000
    return {
        "leaf": leaf,
        "garbage": store.add_text("garbage", b"", [leaf]),
        "tree": store.add_tree("tree", TREE),
        "link": store.add_tree("link", nar.Link(str(leaf)), [leaf]),
        "big-1": store.add_tree("big-1", nar.File(big)),
        "big-2": store.add_tree("big-2", nar.Directory({"one": nar.File(big), "two": nar.File(big)})),
    }


def packages(store: Store) -> dict[str, StorePath]:
    return {name: package(store, name) for name in ("a-1.0", "a-2.0", "b-1.0")}


def outputs(store: Store) -> dict[str, StorePath]:
    """A build of ours: two outputs that refer to a source, one to itself, one to the other."""
    script = "PATH=/usr/bin:/bin; mkdir $out $lib; echo $leaf > $lib/uses; ln -s $lib $out/lib; echo $out > $out/self"
    leaf = store.add_text("leaf", b"a leaf\n")
    variables = {
        "name": "two",
        "system": host_system(),
        "builder": "/bin/sh",
        "toolchain": host_toolchain(),
        "leaf": str(leaf),
    }
    two = {"lib": Output(None), "out": Output(None)}
    blank = Derivation(two, {}, (leaf,), host_system(), "/bin/sh", ("-ec", script), {**variables, "out": "", "lib": ""})
    drv = store.write_derivation(with_outputs(blank, "two", store.read_derivation), "two")
    realise(store, [drv])
    made = store.read_derivation(drv).output_paths()
    assert store.info(made["out"]).references == tuple(sorted((made["lib"], made["out"])))
    return {"two": made["out"], "two-lib": made["lib"]}


def self_reference(store: Store) -> dict[str, StorePath]:
    """A path whose address is made of contents that name the path."""

    def tree(hash_part: str) -> bytes:
        return nar.encode(nar.Directory({"me": nar.File(f"/nix/store/{hash_part}-self".encode())}))

    modulo = content_address.modulo([tree("0" * 32)], "0" * 32)
    path = store_path.source_path("self", modulo, (), self_reference=True)
    data = tree(path.hash_part)
    info = PathInfo(path, Hash.sha256(data), len(data), (path,), ca=content_address.recursive(modulo))
    store.add_nar(info, io.BytesIO(data))
    return {"self": path}


def imports(store: Store, tmp_path: Path) -> dict[str, StorePath]:
    """What another store of real Nix exports."""
    other = RealNix(tmp_path / "other")
    write(TREE, tmp_path / "imported")
    path = other.output("nix-store", "--add", tmp_path / "imported")
    (imported,) = import_paths(store, io.BytesIO(other.run("nix-store", "--export", path).stdout))
    return {"imported": imported}


def install(machine: Machine, store: Store, wanted: list[StorePath]) -> StorePath:
    plan = environment([Element(path) for path in wanted])
    store.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
    realise(store, [store.write_derivation(plan.derivation, "user-environment")])
    profile = Profile(machine.profile("tools"), store)
    number, _ = profile.record(str(plan.output))
    profile.switch(number)
    return plan.output


def built_on(machine: Machine, path: str) -> Path:
    """An expression of a package that real Nix builds, and that refers to a path that we built."""
    expression = machine.home / "on-top.nix"
    expression.write_text(f"""
        derivation {{
          name = "on-top"; system = "x86_64-linux"; builder = "/bin/sh";
          args = [ "-ec" "PATH=/usr/bin:/bin; mkdir $out; ln -s ${{builtins.storePath {path}}} $out/below" ];
        }}
    """)
    return expression
