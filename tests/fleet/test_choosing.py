"""Who builds what: decided from values alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.build.machine import USUAL_FEATURES
from reconciler.core.build.toolchain import host_system, host_toolchain
from reconciler.core.nix.derivation import Derivation, Output
from reconciler.core.nix.store_path import StorePath
from reconciler.fleet.choosing import Maker, Makers, Placement, choose, spread, why_nobody
from reconciler.fleet.prepared import Site
from reconciler.fleet.siting import Outlook, siting
from reconciler.packages.model import Graph, Package
from tests.fleet.values import path

X86, ARM = "x86_64-linux", "aarch64-linux"
HERE = Maker("controller", (X86,))
BUILD01 = Maker("build01", (X86,), jobs=2, listed=True)
BUILD02 = Maker("build02", (X86,), ("big-parallel", "kvm"), jobs=4, speed=2, listed=True)
ARM01 = Maker("arm01", (ARM, "armv7l-linux"), jobs=1, listed=True)
MAKERS = Makers(HERE, (BUILD01, BUILD02, ARM01))


def drv(
    system: str = X86, features: str = "", needs: tuple[StorePath, ...] = (), name: str = "it", toolchain: str = ""
) -> Derivation:
    builder = "builtin:fetchurl" if system == "builtin" else "/bin/sh"
    environment = {"requiredSystemFeatures": features} if features else {}
    environment |= {"toolchain": toolchain} if toolchain else {}
    outputs = {"out": Output(path(name))}
    return Derivation(outputs, dict.fromkeys(needs, ("out",)), (), system, builder, (), environment)


ABLE: dict[tuple[str, str, str], list[str]] = {
    # place, system, features: who may build
    ("", X86, ""): ["controller"],
    ("", X86, "big-parallel"): ["controller"],
    ("", X86, "kvm"): ["build02"],
    ("", X86, "kvm big-parallel"): ["build02"],
    ("", X86, "kvm benchmark"): [],
    ("", ARM, ""): ["arm01"],
    ("", "armv7l-linux", ""): ["arm01"],
    ("", ARM, "kvm"): [],
    ("", "s390x-linux", ""): [],
    ("", "builtin", ""): ["controller"],
    ("controller", X86, ""): ["controller"],
    ("controller", X86, "kvm"): [],
    ("controller", ARM, ""): [],
    ("builders", X86, ""): ["build01", "build02"],
    ("builders", X86, "benchmark"): ["build01"],
    ("builders", X86, "kvm"): ["build02"],
    ("builders", ARM, ""): ["arm01"],
    ("builders", "builtin", ""): ["controller"],
    ("build01", X86, ""): ["build01"],
    ("build01", X86, "kvm"): [],
    ("build01", ARM, ""): [],
    ("build01", "builtin", ""): ["build01"],
    # A host that is not listed: its system is asked for when it is logged in to.
    ("web01", X86, ""): ["web01"],
    ("web01", ARM, ""): ["web01"],
    ("web01", X86, "kvm"): [],
}


@pytest.mark.parametrize(("place", "system", "features"), ABLE)
def test_who_may_build_follows_from_place_system_and_features(place: str, system: str, features: str) -> None:
    able = MAKERS.able(drv(system, features), place)
    assert [maker.name for maker in able] == ABLE[place, system, features]


def test_this_controller_builds_for_its_own_system() -> None:
    assert Makers().controller == Maker("controller", (host_system(),), USUAL_FEATURES)


EMULATING = Maker("controller", (X86, ARM), runs=(ARM,))


def test_a_controller_that_emulates_comes_after_a_builder_that_need_not() -> None:
    able = Makers(EMULATING, (BUILD01, ARM01)).able
    assert able(drv(X86), "") == (EMULATING,)
    assert able(drv(ARM), "") == (ARM01,)
    assert able(drv(ARM), "controller") == (EMULATING,)
    assert Makers(EMULATING, (BUILD01,)).able(drv(ARM), "") == (EMULATING,)


@pytest.mark.parametrize("toolchain", [host_toolchain(), "/nix/store/00000000000000000000000000000000-tools", ""])
def test_who_emulates_a_system_has_no_host_toolchain_of_it(toolchain: str) -> None:
    here = replace(EMULATING, emulates=(ARM,))
    both = Maker("both", (X86, ARM), listed=True, emulates=(ARM,))
    made = drv(ARM, toolchain=toolchain)
    pinned = toolchain != host_toolchain()
    assert Makers(here).able(made, "") == ((here,) if pinned else ())
    assert Makers(here, (both,)).able(made, "builders") == ((both,) if pinned else ())
    assert Makers(here, (both, ARM01)).able(made, "") == ((both, ARM01) if pinned else (ARM01,))
    assert Makers(here).able(drv(X86, toolchain=host_toolchain()), "") == (here,)
    if not pinned:
        text, hint = why_nobody(made, "it-1", "", Makers(here, (BUILD01, both)))
        assert text == (
            "it-1 is for aarch64-linux with `toolchain: host`, and who runs such programs only emulates "
            "aarch64-linux: controller, both"
        )
        assert hint == (
            "a pinned toolchain is of every system, write `toolchain: debian-12`; or list a host that is aarch64-linux "
            "itself in reconciler.yml:  builders: [HOST: {system: aarch64-linux}]"
        )
        assert why_nobody(made, "it-1", "", Makers(HERE, (BUILD01,)))[0].endswith(
            "controller x86_64-linux; build01 x86_64-linux"
        )


CHOSEN: list[tuple[dict[str, int], tuple[str, ...], str | None]] = [
    ({}, (), "build02"),  # 1 of 8 against 1 of 2
    ({"build02": 3}, (), "build02"),  # 4 of 8 against 1 of 2: the faster
    ({"build02": 4}, (), "build01"),  # all its jobs are taken
    ({"build02": 4, "build01": 2}, (), None),
    ({}, ("build02",), "build01"),
    ({"build01": 2}, ("build02",), None),
    ({}, ("build01", "build02"), None),
]


@pytest.mark.parametrize(("busy", "lost", "chosen"), CHOSEN)
def test_the_builder_that_is_least_loaded_is_chosen(
    busy: dict[str, int], lost: tuple[str, ...], chosen: str | None
) -> None:
    found = choose((BUILD01, BUILD02), busy, lost)
    assert (found.name if found else None) == chosen


def test_of_equal_builders_the_first_is_chosen() -> None:
    one, other = Maker("a", (X86,)), Maker("b", (X86,))
    assert choose((one, other), {}) == one
    assert choose((one, other), {"a": 1}) == other
    assert choose((), {}) is None


TOP, LEFT, RIGHT, BASE = (path(f"{name}.drv") for name in ("top", "left", "right", "base"))
GRAPH = {
    TOP: drv(needs=(LEFT, RIGHT), name="top"),
    LEFT: drv(needs=(BASE,), name="left"),
    RIGHT: drv(ARM, needs=(BASE,), name="right"),
    BASE: drv(name="base"),
}
SPREAD: list[tuple[dict[StorePath, str], set[str], dict[StorePath, str]]] = [
    ({TOP: "a"}, set(), dict.fromkeys((TOP, LEFT, RIGHT, BASE), "a")),
    ({TOP: "a"}, {"left", "base"}, {TOP: "a", RIGHT: "a"}),
    ({TOP: "a"}, {"top"}, {}),
    ({TOP: "a", LEFT: "b"}, set(), {TOP: "a", LEFT: "b", RIGHT: "a", BASE: "a"}),
    ({LEFT: "b", TOP: "a"}, set(), {TOP: "a", LEFT: "b", RIGHT: "a", BASE: "b"}),
]


@pytest.mark.parametrize(("wanted", "valid", "found"), SPREAD)
def test_an_input_is_built_where_the_first_that_needs_it_is(
    wanted: dict[StorePath, str], valid: set[str], found: dict[StorePath, str]
) -> None:
    assert spread(wanted, GRAPH.__getitem__, lambda output: output not in {path(name) for name in valid}) == found


PLACEMENT = Placement(
    {"web01": "", "web02": "target", "web03": "build01"}, {"web01": {TOP: "target"}, "web02": {LEFT: "builders"}}
)


def test_the_place_of_a_package_wins_over_that_of_its_host() -> None:
    found = {(host, one): PLACEMENT.of(host, one) for host in ("web01", "web02", "web03") for one in (TOP, LEFT)}
    assert list(found.values()) == ["target", "", "target", "builders", "build01", "build01"]
    assert PLACEMENT.there("web02", [TOP, LEFT, None]) == {TOP}
    assert PLACEMENT.all(["web02", "web01"]) == ("target", "builders", "controller")


def test_what_several_hosts_need_has_one_place_and_what_is_said_counts() -> None:
    needed = [("web01", LEFT), ("web02", LEFT), ("web03", LEFT), ("web02", TOP)]
    assert PLACEMENT.elsewhere(needed) == {LEFT: ("builders", "build01", "")}
    assert PLACEMENT.elsewhere([("web02", TOP)]) == {}
    options = MAKERS.options(drv(ARM), ("build01", "builders", ""))
    assert [[maker.name for maker in able] for able in options] == [["arm01"], ["arm01"]]


def _package(which: StorePath) -> Package:
    name = which.name.removesuffix(".drv")
    return Package(name, "1", path(name), which)


def test_sites_say_who_would_make_what() -> None:
    outlook = Outlook(Graph(GRAPH), frozenset(), lambda one: one.name == "base")
    needed = {"web01": [_package(TOP), _package(LEFT)], "web02": [_package(LEFT)]}
    found = siting(needed, PLACEMENT, MAKERS, outlook)
    assert found.sites == (Site(("build01", "build02"), ("left",)), Site(("target",), ("left", "right", "top")))
    assert found.nobody == {}


def test_what_nobody_can_build_is_told_with_who_has_what() -> None:
    outlook = Outlook(Graph(GRAPH), frozenset({LEFT, BASE}), lambda _: False)
    found = siting({"web03": [_package(TOP)]}, PLACEMENT, MAKERS, outlook)
    assert found.sites == (Site(("build01",), ("top",)),)
    assert list(found.nobody) == [RIGHT]
    text, hint = found.nobody[RIGHT]
    assert text == (
        "right is built on aarch64-linux, and nobody has that, where it is to be built (build01): build01 x86_64-linux"
    )
    assert hint.startswith("leave build_on out, or name another host; or list a host of the inventory")
    text, hint = why_nobody(drv(ARM, "kvm gpu"), "it-1", "", MAKERS)
    assert text == (
        "it-1 is built on aarch64-linux with gpu, kvm, and nobody has that: controller x86_64-linux; build01 "
        "x86_64-linux; build02 x86_64-linux (big-parallel, kvm); arm01 aarch64-linux armv7l-linux"
    )
    assert hint.endswith("builders: [HOST: {system: aarch64-linux, features: [gpu, kvm]}]")
    assert why_nobody(drv(ARM), "it-1", "builders", Makers(HERE))[0].endswith(": reconciler.yml lists no builders")
