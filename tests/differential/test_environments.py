"""Random sets of packages: Nix and we make the same environment of each, or both refuse it for the same two files.

The sets come from a seed, and a failure names the set's number in it. Sets without priorities go through `nix-env -ir`
one by one; for those with priorities, which it cannot be told, Nix builds the derivations that we wrote.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.build.realise import BuildOptions, BuildsError, realise
from reconciler.core.errors import BuildError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile import merging
from reconciler.core.profile.environment import CollisionError, EnvironmentPlan, environment, merge
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from tests.differential.packages import package_set
from tests.oracle import RealNix

pytestmark = [pytest.mark.nix, pytest.mark.root]

_COLOUR = re.compile("\x1b\\[[0-9;]*m")
# What Nix's buildenv says of two files that it cannot both show; `other` may be a directory of the environment itself.
_CLASH = re.compile(
    r"(?:packages |collision between (?:non-directory )?)'(?P<one>/nix/store/[^']+)'"
    r" and (?:non-directory |directory )?'(?P<other>/nix/store/[^']+)'"
)
# Links that lead to themselves, or a directory that would hold itself: as we say it, and as Nix does.
_ENDLESS = re.compile("Too many levels of symbolic links|does not end|File name too long")


@dataclass(frozen=True)
class Set:
    number: int
    plan: EnvironmentPlan

    @property
    def has_priorities(self) -> bool:
        return b"priority" in self.plan.manifest_contents


@dataclass(frozen=True)
class Side:
    """One side's store afterwards, and why it refused what it refused, by output."""

    root: Path
    made: Mapping[StorePath, PathInfo]
    refusals: Mapping[StorePath, str]
    errors: Mapping[StorePath, BuildError]


def test_nix_agrees_on_40_random_sets_of_packages(store_root: Path) -> None:
    assert_agreed(store_root, "short", 40)


@pytest.mark.slow
def test_nix_agrees_on_300_random_sets_of_packages(store_root: Path) -> None:
    assert_agreed(store_root, "long", 300)


def test_a_difference_would_be_seen(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: where less is left out of an environment than Nix leaves out, a set is named."""
    monkeypatch.setattr(merging, "_LEFT_OUT", ("/nix-support", "/manifest.nix"))
    with pytest.raises(AssertionError, match=r"set [0-9]+ of control"):
        assert_agreed(store_root, "control", 8)


def assert_agreed(root: Path, seed: str, count: int) -> None:
    ours, theirs = root / "ours", root / "theirs"
    chance = random.Random(seed)
    with Store.open(str(ours), create=True) as store, store.batch() as batch:
        sets = [Set(number, environment(package_set(chance, batch, number))) for number in range(count)]
    # The packages alone: what an environment needs beside them, each side writes for itself.
    subprocess.run(["cp", "-a", ours, theirs], check=True)
    mine, nixs = by_us(ours, sets), by_nix(theirs, sets)
    for one in sets:
        where = f"set {one.number} of {seed}: {one.plan.derivation.environment['derivations']}"
        output = one.plan.output
        assert comparable(mine.made.get(output)) == comparable(nixs.made.get(output)), where
        if output in nixs.refusals:
            assert output in mine.errors, where
            assert_same_refusal(one, nixs.refusals[output], nixs.root, where)
    assert count / 8 < len(nixs.refusals) < count / 2, "the sets clash too seldom, or too often, to show much"
    RealNix(ours).verify()
    RealNix(theirs).verify()


def comparable(info: PathInfo | None) -> PathInfo | None:
    return info and replace(info, registered=0)


# --- both sides -------------------------------------------------------------------------------------------------------


def by_us(root: Path, sets: Sequence[Set]) -> Side:
    errors: dict[StorePath, BuildError] = {}
    with Store.open(str(root)) as store:
        write_derivations(store, sets)
        try:
            realise(store, [one.plan.drv_path for one in sets], BuildOptions(keep_going=True))
        except BuildsError as error:
            by_derivation = {one.plan.drv_path: one.plan.output for one in sets}
            errors = {by_derivation[path]: each for path, each in error.errors.items()}
        return Side(root, dict(_made(store, sets)), {}, errors)


def by_nix(root: Path, sets: Sequence[Set]) -> Side:
    nix = RealNix(root, sandbox=True, config="max-jobs = 2\nkeep-going = true")
    refusals: dict[StorePath, str] = {}
    for one in sets:
        if not one.has_priorities:
            said = installed(nix, one)
            if said:
                refusals[one.plan.output] = said
    others = [one for one in sets if one.has_priorities]
    with Store.open(str(root)) as store:
        write_derivations(store, others)
    nix.run("nix-store", "--realise", *(str(one.plan.drv_path) for one in others), check=False)
    with Store.open(str(root)) as store:
        made = dict(_made(store, sets))
    for one in others:
        if one.plan.output not in made:
            refusals[one.plan.output] = nix.output("nix-store", "--read-log", str(one.plan.drv_path))
    return Side(root, made, refusals, {})


def installed(nix: RealNix, one: Set) -> str:
    """Install a set into a profile of its own; what Nix said, where it refused."""
    link = nix.root / f"profile-{one.number}"
    paths = re.findall(r'"(/nix/store/[^"]+)"; outputs', one.plan.manifest_contents.decode())
    done = nix.run("nix-env", "-p", link, "-ir", *paths, check=False)
    if done.returncode != 0:
        return done.stderr.decode()
    assert os.readlink(link.parent / os.readlink(link)) == str(one.plan.output), f"set {one.number}"
    return ""


def write_derivations(store: Store, sets: Sequence[Set]) -> None:
    with store.batch() as batch:
        for one in sets:
            batch.add_text("env-manifest.nix", one.plan.manifest_contents, one.plan.manifest_references)
            batch.add_derivation(one.plan.derivation, "user-environment")


def _made(store: Store, sets: Sequence[Set]) -> Iterator[tuple[StorePath, PathInfo]]:
    valid = store.valid(one.plan.output for one in sets)
    yield from ((info.path, info) for info in store.infos(valid))


# --- refusals ---------------------------------------------------------------------------------------------------------


def assert_same_refusal(one: Set, said: str, root: Path, where: str) -> None:
    """What we come upon first, when we go by Nix's order, is what Nix says: two files, or a link that does not end."""
    problem = first_problem(one, root)
    if isinstance(problem, str):
        assert _ENDLESS.search(problem), where
        assert _ENDLESS.search(said), f"{where}: {said}"
        return
    found = _CLASH.search(_COLOUR.sub("", said))
    assert found is not None, f"{where}: {said}"
    assert problem == {found["one"], found["other"].removeprefix(f"{one.plan.output}/")}, where


class _InOrderOfDisk(merging.Sources):
    """Nix merges the entries of a directory as the disk gives them, and so may come upon another pair than we do."""

    def entries(self, directory: str) -> list[tuple[str, bool, bool]]:
        with os.scandir(self.real(directory)) as found:
            return [(each.name, each.is_dir(follow_symlinks=False), each.is_symlink()) for each in found]


class _Noting(merging.Tree):
    """Knows which two files met; of a real directory of the environment its name there."""

    clash: frozenset[str] = frozenset()

    def _place(self, link: merging.Link, file: str) -> None:
        present = self.links.get(file)
        try:
            super()._place(link, file)
        except CollisionError:
            self.clash = self.clash or frozenset({link.source, present.source if present else file})
            raise


def first_problem(one: Set, root: Path) -> frozenset[str] | str:
    tree = _Noting(_InOrderOfDisk(str(root / "nix/store")), lambda _: None)
    with pytest.raises(BuildError) as caught:
        merge(one.plan.derivation.environment, tree)
    return tree.clash or str(caught.value)
