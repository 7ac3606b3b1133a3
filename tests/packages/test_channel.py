"""Names in a channel: what they mean on which system, which outputs come along, and what is said when nothing fits."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from reconciler.core.errors import StoreError, UsageError
from reconciler.core.nix.signature import PublicKey
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.inventory.desired import Position
from reconciler.inventory.outputs import Named
from reconciler.inventory.sets import CacheSpec, ChannelSet, RecipesSet
from reconciler.packages.instantiate import instantiate
from reconciler.packages.lock import Lock
from reconciler.packages.resolver import PackageSets, Resolver
from reconciler.packages.store_paths import StorePathList
from tests.oracle import RealNix
from tests.packages.channel import ARM, X86, ChannelMaker, nixpkgs
from tests.packages.project import Project

WHERE = Position("hosts.yml", 4, 9)
SET = Position("reconciler.yml", 3, 5)


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> ChannelMaker:
    return nixpkgs(tmp_path_factory.mktemp("nixpkgs"))


def sets_of(channel: ChannelMaker, cache: Path, key: str | None = None) -> PackageSets:
    keys = (PublicKey.parse(key or channel.key),)
    spec = ChannelSet("nixpkgs", str(channel.channel), None, keys, SET)
    return PackageSets((RecipesSet("packages"), spec), (), cache)


@pytest.fixture
def resolver(channel: ChannelMaker, project: Project, tmp_path: Path) -> Resolver:
    return Resolver(project.root, project.inventory, None, sets_of(channel, tmp_path / "cached"))


MEANT = [
    ("htop", X86, "htop-3.3.0", ["htop-3.3.0-man"]),
    ("htop", ARM, "htop-3.3.0", ["htop-3.3.0-man"]),
    ("nixpkgs:htop@3.2", X86, "htop-3.2.2", []),
    ("htop@3", X86, "htop-3.3.0", ["htop-3.3.0-man"]),
    ("openssl", X86, "openssl-3.4.1-bin", ["openssl-3.4.1-man"]),
    ("openssl.dev", X86, "openssl-3.4.1-dev", []),
    ("openssl.out", ARM, "openssl-3.4.1", []),
    ("tzdata", X86, "tzdata-2025a", []),
    ("tzdata", ARM, "tzdata-2025a", []),
    ("iso-codes", X86, "iso-codes-4.15", []),
    ("iso-codes", ARM, "iso-codes-4.15", []),
    ("lone@1.5", X86, "lone-1.5", []),
]


@pytest.mark.parametrize("case", MEANT, ids=lambda case: f"{case[0]} on {case[1]}")
def test_a_name_means_the_output_with_programs_for_the_system(
    resolver: Resolver, channel: ChannelMaker, case: tuple[str, str, str, list[str]]
) -> None:
    reference, system, path, also = case
    package = resolver.resolve(reference, system)
    assert package.output.name == path
    assert [one.name for one in package.also] == also
    with Store.open(str(channel.store_root)) as store:
        libcs = {str(one) for one in store.closure(package.paths) if one.name.startswith("glibc")}
    assert not libcs or libcs == {str(libc_of(channel, system))}


def libc_of(channel: ChannelMaker, system: str) -> StorePath:
    return next(path for path in channel._paths if path.name.startswith("glibc") and is_for(channel, path, system))


def is_for(channel: ChannelMaker, path: StorePath, system: str) -> bool:
    head = Path(f"{channel.store_root}{path}/lib/libc.so.6").read_bytes()[18]
    return head == {X86: 62, ARM: 183}[system]


NOTHING = {
    "htp": ("there is no package 'htp'", "did you mean 'htop'?"),
    "nothing-like-it": ("there is no package 'nothing-like-it'", "recipes are looked up in"),
    "htop@9": ("there is no htop@9", "nixpkgs has 3.3.0, 3.2.2"),
    "nixpkgs:only-arm": ("there is no nixpkgs:only-arm for x86_64-linux", "nixpkgs has it for aarch64-linux"),
    "openssl.lib": ("there is no openssl.lib", "nixpkgs has these outputs of it: bin, dev, doc, man, out"),
    "nixpgks:htop": ("there is no package set 'nixpgks'", "did you mean 'nixpkgs'?"),
}


@pytest.mark.parametrize("reference", NOTHING)
def test_what_means_nothing_is_told_with_its_place(resolver: Resolver, reference: str) -> None:
    with pytest.raises(UsageError) as error:
        resolver.resolve(reference, X86, WHERE)
    assert error.value.message == f"hosts.yml:4:9: {NOTHING[reference][0]}"
    assert NOTHING[reference][1] in (error.value.hint or "")


def test_twins_are_told_and_not_guessed(resolver: Resolver, channel: ChannelMaker) -> None:
    twins = sorted(str(path) for path in channel._paths if path.name == "python3-3.12.8")
    with pytest.raises(UsageError) as error:
        resolver.resolve("python3", X86, WHERE)
    first, *lines = error.value.message.split("\n")
    assert first == "hosts.yml:4:9: python3 is 2 packages of nixpkgs, each built in another way:"
    assert [line.strip() for line in lines] == twins
    assert resolver.resolve(twins[0], X86).output == StorePath.parse(twins[0])


def test_the_same_data_built_for_two_systems_is_one_path_and_other_data_is_told(
    resolver: Resolver, channel: ChannelMaker
) -> None:
    paths = {path.name: sorted(each for each in channel._paths if each.name == path.name) for path in channel._paths}
    chosen = {resolver.resolve("iso-codes", system).output for system in (X86, ARM)}
    assert len(paths["iso-codes-4.15"]) == 2
    assert chosen == {paths["iso-codes-4.15"][0]}
    with pytest.raises(UsageError, match="fonts is 2 packages of nixpkgs"):
        resolver.resolve("fonts", X86)


def test_a_recipe_comes_before_a_channel_that_is_named_after_it(resolver: Resolver, project: Project) -> None:
    project.recipe("htop", "version: 1.0\ntoolchain: host\n")
    assert resolver.resolve("htop", X86).version == "1.0"
    assert resolver.resolve("nixpkgs:htop", X86).version == "3.3.0"
    assert resolver.resolve("htop@3.3", X86).version == "3.3.0"  # the recipe has no such version


def test_what_is_locked_is_taken_without_the_channel(
    resolver: Resolver, channel: ChannelMaker, project: Project, tmp_path: Path
) -> None:
    package = resolver.resolve("htop", X86)
    (entry,) = resolver.unlocked()
    assert (entry.path, entry.also, entry.set) == (package.output, package.also, "nixpkgs")
    assert entry.release == "0123456789ab"
    with Store.open(str(channel.store_root)) as store:
        assert entry.size == sum(store.info(path).nar_size for path in store.closure(package.paths))
    gone = ChannelSet("nixpkgs", str(tmp_path / "gone/"), f"file://{channel.cache}", (), SET)
    pinned = Lock().with_entries([entry])
    later = Resolver(project.root, project.inventory, pinned, PackageSets((gone,), (), tmp_path / "other"))
    assert later.resolve("htop", X86) == package


def test_a_pin_of_a_set_that_is_gone_is_told(resolver: Resolver, project: Project) -> None:
    resolver.resolve("htop", X86)
    later = Resolver(project.root, project.inventory, Lock().with_entries(resolver.unlocked()))
    with pytest.raises(UsageError, match="htop is locked in the set 'nixpkgs', which reconciler"):
        later.resolve("htop", X86)


def test_a_package_of_a_channel_comes_with_its_closure_and_real_nix_agrees(
    resolver: Resolver, channel: ChannelMaker, tmp_path: Path
) -> None:
    package = resolver.resolve("htop", X86)
    with Store.open(str(tmp_path / "mine"), create=True) as store:
        instantiate(resolver.graph([package]), store)
        closure = store.closure(package.paths)
        assert {path.name for path in closure} == {"htop-3.3.0", "htop-3.3.0-man", "zlib-1.3.1", "glibc-2.40-66"}
    RealNix(tmp_path / "mine").verify()


def test_without_the_right_key_nothing_comes(channel: ChannelMaker, project: Project, tmp_path: Path) -> None:
    other = f"test-1:{'A' * 43}="
    resolver = Resolver(project.root, project.inventory, None, sets_of(channel, tmp_path / "cached", other))
    with pytest.raises(StoreError, match="Sig"):
        resolver.resolve("htop", X86)


def test_a_recipe_takes_an_input_from_a_channel(resolver: Resolver, project: Project) -> None:
    project.recipe("top", "version: 1\ntoolchain: host\ninputs: [nixpkgs:zlib]\n")
    package = resolver.resolve("top", X86)
    graph = resolver.graph([package])
    assert package.derivation is not None
    sources = graph.derivations[package.derivation].input_sources
    assert "zlib-1.3.1" in {path.name for path in sources}
    assert [entry.reference for entry in resolver.unlocked()] == ["nixpkgs:zlib", "top"]


def test_a_given_path_may_come_from_any_cache(channel: ChannelMaker, project: Project, tmp_path: Path) -> None:
    path = next(path for path in channel._paths if path.name == "tzdata-2025a")
    caches = (CacheSpec(f"file://{channel.cache}", (PublicKey.parse(channel.key),)),)
    resolver = Resolver(project.root, project.inventory, None, PackageSets(caches=caches, cache_directory=tmp_path))
    with Store.open(str(tmp_path / "mine"), create=True) as store:
        instantiate(resolver.graph([resolver.resolve(str(path), X86)]), store)
        assert store.is_valid(path)


def test_a_channel_that_is_not_there_is_told_with_its_line(project: Project, tmp_path: Path) -> None:
    spec = ChannelSet("nixpkgs", "channels/none", None, (), SET)
    resolver = Resolver(project.root, project.inventory, None, PackageSets((spec,), (), tmp_path))
    with pytest.raises(
        UsageError, match=r"^reconciler\.yml:3:5: .*/channels/none/store-paths\.xz of set 'nixpkgs': No such"
    ):
        resolver.resolve("htop", X86)


def test_a_list_that_is_cut_short_is_told(project: Project, tmp_path: Path) -> None:
    folder = project.root / "channels/cut"
    folder.mkdir(parents=True)
    (folder / "store-paths.xz").write_bytes(lzma.compress(b"/nix/store/x\n" * 1000)[:-20])
    spec = ChannelSet("nixpkgs", "channels/cut", None, (), SET)
    resolver = Resolver(project.root, project.inventory, None, PackageSets((spec,), (), tmp_path))
    with pytest.raises(UsageError, match="cannot be unpacked: it is cut short"):
        resolver.resolve("htop", X86)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("htop-3.3.0-man", ("htop", "3.3.0", "man")),
        ("openssl-3.4.1", ("openssl", "3.4.1", "")),
        ("nix-2.28.3-man", ("nix", "2.28.3", "man")),
        ("glibc-2.40-66", ("glibc", "2.40-66", "")),
        ("source", ("source", "", "")),
    ],
)
def test_the_name_of_a_path_tells_package_version_and_output(name: str, expected: tuple[str, str, str]) -> None:
    found = Named.of(StorePath.parse(f"/nix/store/{'0' * 32}-{name}"))
    assert (found.name, found.version, found.output) == expected


def test_a_search_finds_names_that_hold_the_word() -> None:
    listed = StorePathList(
        "".join(f"/nix/store/{'0' * 32}-{name}\n" for name in ("htop-3", "htop-4-man", "ftop-1", "x"))
    )
    assert listed.search("TOP") == {"htop": {"3", "4"}, "ftop": {"1"}}
