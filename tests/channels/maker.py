"""The big channel: real Nix builds a derivation for each Debian package, and writes a signed cache of them.

    channel/    store-paths.xz, git-revision, binary-cache-url: what a Nix channel has
    cache/      what real Nix wrote: narinfos, and archives compressed with xz

It is made once, in some minutes, and kept under the cache directory; with other packages or another way of making them
it is made anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.fs import FileLock, remove_tree
from reconciler.core.nix import narinfo as narinfos
from reconciler.core.nix.narinfo import NarInfo
from reconciler.core.nix.store_path import StorePath
from reconciler.packages import deb_archive
from reconciler.packages.downloads import cache_directory
from reconciler.packages.keys import generate
from tests.channels import debian
from tests.channels.wanted import CALLED, LEFT_OUT, TOGETHER, WANTED
from tests.core.store.web_server import Server, serving
from tests.oracle import RealNix
from tests.packages.channel import ARM, X86

HERE = Path(__file__).parent
FORMAT = 1  # another one where debian.py or this module make something else of the same packages
KEY_NAME = "channel-1"
# What unpacks: patchelf, and what that needs, of the machine that makes the channel.
_TOOLS = "busybox-static patchelf"


@contextlib.contextmanager
def site(channel: RealChannel, directory: Path) -> Iterator[Server]:
    """A web server of the channel, for as long as the block lasts: its files at /channel, its cache at /cache.
    `directory` is for what says where the cache is."""
    shutil.copytree(channel.channel, directory / "channel")
    (directory / "cache").symlink_to(channel.cache)
    with serving(directory) as server:
        (directory / "channel/binary-cache-url").write_text(f"{server.url}/cache")
        yield server


@dataclass(frozen=True)
class RealChannel:
    """A channel that is made. `key`: the public key that it is signed with."""

    directory: Path
    key: str

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def channel(self) -> Path:
        return self.directory / "channel"

    @property
    def paths(self) -> list[StorePath]:
        """Every path of it, sorted."""
        text = lzma.decompress((self.channel / "store-paths.xz").read_bytes()).decode()
        return [StorePath.parse(line) for line in text.splitlines()]

    def narinfos(self) -> Iterator[NarInfo]:
        """What the cache says of each path."""
        for path in self.paths:
            name = f"{path.hash_part}.narinfo"
            yield narinfos.parse((self.cache / name).read_bytes(), name, path.hash_part)

    @property
    def size(self) -> int:
        """The bytes of all archives."""
        return sum(found.nar_size for found in self.narinfos())

    @property
    def file_size(self) -> int:
        """The bytes of all archives as they are in the cache, compressed."""
        return sum(found.file_size or 0 for found in self.narinfos())


def real_channel(
    wanted: Mapping[str, Sequence[str]] = WANTED, tell: Callable[[str], None] = lambda _: None
) -> RealChannel:
    """The channel, made when it is not there yet. Needs real Nix, apt, and an x86_64 machine to make it on."""
    place = cache_directory() / "test-channels" / _digest(wanted)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not (place / "key").exists():
            with tempfile.TemporaryDirectory(dir=place.parent, prefix="making-", ignore_cleanup_errors=True) as work:
                _make(Path(work), wanted, tell)
                (Path(work) / "made").replace(place)
    return RealChannel(place, (place / "key").read_text())


def _digest(wanted: Mapping[str, Sequence[str]]) -> str:
    """Of all that decides what is made, but for what Debian's mirrors have at the time."""
    systems = {system: list(turns) for system, turns in wanted.items()}
    chosen = [FORMAT, systems, {**TOGETHER}, {**CALLED}, sorted(LEFT_OUT), _TOOLS]
    state = hashlib.sha256(json.dumps(chosen).encode())
    for name in ("default.nix", "unpack.sh"):
        state.update((HERE / name).read_bytes())
    return state.hexdigest()[:32]


def _make(work: Path, wanted: Mapping[str, Sequence[str]], tell: Callable[[str], None]) -> None:
    tell("fetching Debian packages")
    packages = {system: debian.fetch(system, turns) for system, turns in wanted.items()}
    specs = [spec for system in wanted for spec in debian.specs(system, packages[system])]
    _lay_out(work, specs, [each for found in packages.values() for each in found.values()])
    root = work / "root"
    nix = RealNix(
        root, sandbox=True, config=f"extra-platforms = {ARM}\nmax-jobs = {os.cpu_count()}\nkeep-failed = false"
    )
    with _store(root):
        tell(f"building {len(specs)} derivations")
        made = {system: _build(nix, work, system) for system in wanted}
        tell(f"writing the cache of {sum(map(len, made.values()))} paths")
        _publish(nix, work / "made", made)


def _lay_out(work: Path, specs: Iterable[debian.Spec], packages: Iterable[debian.Package]) -> None:
    """What default.nix reads: packages.json, debs/ and tools/."""
    shutil.copy(HERE / "default.nix", work)
    shutil.copy(HERE / "unpack.sh", work)
    (work / "packages.json").write_text(json.dumps([dataclasses.asdict(spec) for spec in specs]))
    (work / "debs").mkdir()
    for package in packages:
        if not (work / "debs" / package.label).exists():  # one for every architecture is there already
            os.link(package.file, work / "debs" / package.label)
    for name in ("bin", "lib"):
        (work / "tools" / name).mkdir(parents=True)
    for package in debian.fetch(X86, [_TOOLS]).values():
        for member in deb_archive.read(package.file):
            _take_tool(work / "tools", member)


def _take_tool(tools: Path, member: deb_archive.Member) -> None:
    """Programs and libraries, each in one flat folder."""
    name = member.parts[-1]
    is_library = "lib" in member.parts[:2] and ".so" in name
    if not is_library and not ("bin" in member.parts[:2] and name in ("busybox", "patchelf")):
        return
    file = tools / ("lib" if is_library else "bin") / name
    if member.target is None:
        file.unlink(missing_ok=True)
        file.write_bytes(member.contents)
        file.chmod(0o755)
    elif is_library and not file.exists():
        file.symlink_to(Path(member.target).name)


@contextlib.contextmanager
def _store(root: Path) -> Iterator[None]:
    """A store that is gone afterwards, read-only directories and all."""
    root.mkdir()
    try:
        yield
    finally:
        parent = os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            remove_tree(root.name, parent)
        finally:
            os.close(parent)


def _build(nix: RealNix, work: Path, system: str) -> list[str]:
    """Every output of the derivations of one system."""
    expression = f'import {work}/default.nix {{ directory = {work}; system = "{system}"; }}'
    derivations = sorted(set(_run(nix, "nix-instantiate", "--expr", expression)))
    return sorted(set(_run(nix, "nix-store", "--realise", "-Q", *derivations)))


def _run(nix: RealNix, name: str, *words: str) -> list[str]:
    """What a program prints, by lines; without the oracle's deadline, which this may take longer than."""
    done = subprocess.run(
        [name, "--store", str(nix.root), *words], env=nix.environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return [line.partition("!")[0] for line in done.stdout.splitlines()]


def _publish(nix: RealNix, made: Path, outputs: Mapping[str, Sequence[str]]) -> None:
    """The cache as Nix writes it, and the channel's files; the key last, which says that all is there."""
    cache, channel = made / "cache", made / "channel"
    channel.mkdir(parents=True)
    secret, public = generate(KEY_NAME)
    with tempfile.NamedTemporaryFile("w", dir=made) as key:
        key.write(secret)
        key.flush()
        target = f"file://{cache}?compression=xz&secret-key={key.name}"
        words = ("copy", "--extra-experimental-features", "nix-command", "--to", target)
        _run(nix, "nix", *words, "--no-recursive", _first(nix, outputs))  # nix-cache-info, before there are two
        with ThreadPoolExecutor(len(outputs)) as pool:  # Nix compresses one path after the other
            for _ in pool.map(lambda paths: _run(nix, "nix", *words, *paths), outputs.values()):
                pass
    listed = "".join(f"{path}\n" for path in sorted({path for paths in outputs.values() for path in paths})).encode()
    (channel / "store-paths.xz").write_bytes(lzma.compress(listed))
    (channel / "git-revision").write_text(hashlib.sha1(listed).hexdigest())
    (made / "key").write_text(public)


def _first(nix: RealNix, outputs: Mapping[str, Sequence[str]]) -> str:
    """A path without references."""
    every = [path for paths in outputs.values() for path in paths]
    return _run(nix, "nix-store", "-qR", *every)[0]
