"""Orig tarballs by apt: the private sources, the hash, and (with the network) GNU programs from upstream's source."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.build.realise import BuildOptions, realise
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import BuildError, StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.core.store.store import Store
from reconciler.packages import debian
from reconciler.packages.instantiate import instantiate
from reconciler.packages.resolver import Resolver
from reconciler.packages.specs import DebianSpec
from tests.core.build.helpers import PROJECT
from tests.oracle import RealNix
from tests.packages import bare

LISTS = """
# deb http://archive.example/commented bookworm main
deb http://archive.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://archive.example/other ./   # flat
deb-src http://archive.example/debian bookworm main contrib
deb [arch=amd64] http://archive.example/third stable main
"""
SOURCES = """# the distribution's own
Types: deb deb-src
URIs: http://archive.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Architectures: amd64
 arm64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://archive.example/off
Suites: x

Types: deb
# commented: yes
URIs: http://archive.example/on
Suites: y
Enabled: yes
"""


def test_the_private_sources_are_the_systems_own_as_sources_of_source_packages() -> None:
    one_line, stanzas = debian.source_entries([LISTS], [SOURCES])
    assert one_line.splitlines() == [
        "deb-src http://archive.example/debian bookworm main contrib",
        "deb-src [ signed-by=/usr/share/keyrings/x.gpg ] http://archive.example/other ./",
        "deb-src http://archive.example/third stable main",
    ]
    assert stanzas.split("\n\n") == [
        (
            "Types: deb-src\nURIs: http://archive.example/debian\nSuites: bookworm\n bookworm-updates\n"
            "Components: main\nSigned-By:\n"
            " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----"
        ),
        "Types: deb-src\nURIs: http://archive.example/on\nSuites: y\n",
    ]


def test_the_private_configuration_keeps_proxies_and_drops_hooks_and_places(tmp_path: Path) -> None:
    system = (
        'Acquire::http::Proxy "http://proxy:3128";\nAPT::Update::Post-Invoke:: "rm -rf /";\n'
        'Dir::State "var/lib/apt";\nDPkg::Post-Invoke:: "x";\nDir::Etc::sourcelist "sources.list";\n'
    )
    made = debian.Apt(tmp_path).configuration(system)
    assert 'Acquire::http::Proxy "http://proxy:3128";' in made
    assert "Invoke" not in made
    assert "var/lib" not in made
    assert f'Dir::State::lists "{tmp_path}/lists/";' in made


SHOWSRC = """Package: thing
Version: 1.0-2
Checksums-Sha256:
 {digest} 100 thing_1.0.orig.tar.gz
 {digest} 100 thing_1.0.orig.tar.gz.asc
 {digest} 100 thing_1.0-2.debian.tar.xz

Package: thing
Version: 1.1+dfsg-1
Checksums-Sha256:
 {digest} 100 thing_1.1+dfsg.orig.tar.xz
"""


class FakeApt:
    """Stands where apt is run; a mirror that has whatever `files` says."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.commands: list[str] = []

    def __call__(self, command: list[str], environment: dict[str, str], cwd: Path | None) -> str:
        self.commands.append(" ".join(command[:2]))
        if command[0] == "apt-cache":
            return SHOWSRC.format(digest="0" * 64)
        if command[1] == "source":
            assert cwd is not None
            assert command[-1] == "thing=1.0-2"
            (cwd / "thing_1.0.orig.tar.gz").write_bytes(self.files["thing_1.0.orig.tar.gz"])
        return ""


@pytest.fixture
def fake_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], FakeApt]:
    def make(content: bytes) -> FakeApt:
        fake = FakeApt({"thing_1.0.orig.tar.gz": content})
        monkeypatch.setattr(debian, "_command", fake)
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return fake

    return make


def spec(content: bytes, file: str = "thing_1.0.orig.tar.gz") -> DebianSpec:
    return DebianSpec("thing", file, Hash.sha256(content))


def test_a_tarball_is_downloaded_once_and_kept_by_its_hash(fake_apt: Callable[[bytes], FakeApt]) -> None:
    fake = fake_apt(b"tarball")
    kept = debian.fetch(spec(b"tarball"))
    assert kept.read_bytes() == b"tarball"
    assert fake.commands.count("apt-get source") == 1
    assert debian.fetch(spec(b"tarball")) == kept
    assert fake.commands.count("apt-get source") == 1


@pytest.mark.parametrize("lacking", [set(), {"thing=1.0-1"}, {"thing=1.0-2"}, {"thing=1.0-1", "thing=1.0-2"}])
def test_a_tarball_that_one_archive_lists_and_leaves_to_another_is_fetched_there(
    fake_apt: Callable[[bytes], FakeApt], monkeypatch: pytest.MonkeyPatch, lacking: set[str]
) -> None:
    """An archive for updates, which lists the tarball of the version before."""
    fake = fake_apt(b"tarball")
    asked: list[str] = []

    def run(command: list[str], environment: dict[str, str], cwd: Path | None) -> str:
        if command[1] == "showsrc":
            return "\n\n".join(
                SHOWSRC.format(digest="0" * 64).replace("1.0-2\n", f"{it}\n") for it in ("1.0-2", "1.0-1")
            )
        if command[1] != "source":
            return ""
        asked.append(command[-1])
        if command[-1] in lacking:
            raise StoreError("404  Not Found")
        return fake([*command[:-1], "thing=1.0-2"], environment, cwd)

    monkeypatch.setattr(debian, "_command", run)
    if len(lacking) == 2:
        with pytest.raises(StoreError, match="404  Not Found"):
            debian.fetch(spec(b"tarball"))
    else:
        assert debian.fetch(spec(b"tarball")).read_bytes() == b"tarball"
    assert asked == ["thing=1.0-2", *(["thing=1.0-1"] if "thing=1.0-2" in lacking else [])]


def test_a_kept_tarball_that_was_damaged_is_fetched_again(fake_apt: Callable[[bytes], FakeApt]) -> None:
    fake = fake_apt(b"tarball")
    debian.fetch(spec(b"tarball")).write_bytes(b"rotten")
    assert debian.fetch(spec(b"tarball")).read_bytes() == b"tarball"
    assert fake.commands.count("apt-get source") == 2


def test_a_tarball_with_another_hash_is_refused_with_both_and_how_to_accept_it(
    fake_apt: Callable[[bytes], FakeApt],
) -> None:
    fake_apt(b"new")
    with pytest.raises(BuildError) as error:
        debian.fetch(spec(b"old"))
    assert error.value.message == (
        "thing_1.0.orig.tar.gz of Debian's source package thing is not what its hash says\n"
        f"  wanted  {Hash.sha256(b'old').hex_prefixed}\n  found   {Hash.sha256(b'new').hex_prefixed}"
    )
    assert f"sha256: {Hash.sha256(b'new').base16}" in (error.value.hint or "")


def test_a_version_that_the_archive_no_longer_has_is_told_with_those_it_has(
    fake_apt: Callable[[bytes], FakeApt],
) -> None:
    fake = fake_apt(b"x")
    with pytest.raises(StoreError) as error:
        debian.fetch(spec(b"x", "thing_0.9.orig.tar.gz"))
    assert error.value.message == (
        "Debian's archive has no thing_0.9.orig.tar.gz of thing now; "
        "it has thing_1.0.orig.tar.gz, thing_1.1+dfsg.orig.tar.xz"
    )
    assert fake.commands.count("apt-get update") == 1


def test_a_machine_without_apt_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StoreError, match="needs apt, which this machine does not have"):
        debian.fetch(spec(b"x"))


@pytest.mark.network
@pytest.mark.nix
def test_gnu_programs_are_built_from_upstreams_source_and_run(
    store: Store, nix: RealNix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: apt with a cache of its own, the toolchain's packages, ./configure, make, make install, and the
    program itself, where there is only the store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    resolver = Resolver(PROJECT, PROJECT / "inventories/gnu")
    packages = {name: resolver.resolve(name, host_system()) for name in ("gnu-which", "units")}
    instantiate(resolver.graph(packages.values()), store)
    realise(store, [one.derivation for one in packages.values() if one.derivation], BuildOptions(jobs=2))
    kept = sorted(path.name.partition("-")[2] for path in (tmp_path / "cache/reconciler/sources").iterdir())
    assert len(kept) == len(packages)

    def run(name: str, program: str, *arguments: str) -> str:
        place = tmp_path / f"bare-{name}-{len(list(tmp_path.glob('bare-*')))}"
        output = packages[name].output
        return bare.run(place, store, [output], f"{output}/bin/{program}", *arguments)

    assert run("gnu-which", "which", "--version").startswith("GNU which v2.21")
    assert run("units", "units", "-t", "kilometer", "meter").split() == ["1000"]
    nix.verify()
