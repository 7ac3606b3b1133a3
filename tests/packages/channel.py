"""A channel whose binary cache real Nix has written: two systems, several outputs, twins of one name."""

from __future__ import annotations

import hashlib
import lzma
import struct
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.nix import base32, nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.packages.keys import generate
from tests.oracle import RealNix

X86, ARM = "x86_64-linux", "aarch64-linux"
_MACHINES = {X86: 62, ARM: 183}


def elf(system: str, more: bytes = b"") -> bytes:
    """What begins like a 64-bit program of `system`."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, _MACHINES[system])
    return head + bytes(44) + more


@dataclass
class ChannelMaker:
    """Fills a store with made-up builds, and has real Nix write a signed cache of it beside a list of its paths."""

    directory: Path

    def __post_init__(self) -> None:
        self.store_root = self.directory / "store"
        self.cache = self.directory / "cache"
        self.channel = self.directory / "channel"
        secret, self.key = generate("test-1")
        self.secret = self.directory / "secret"
        self.secret.write_text(secret)
        self._paths: list[StorePath] = []

    def build(
        self, name: str, node: nar.Node, *references: StorePath, derivation: str | None = "", twin: str = ""
    ) -> StorePath:
        """One output: `name` as in its store path; outputs of one `derivation` belong together (None: not known)."""
        archive = nar.encode(node)
        path = _path(name, twin or derivation or "")
        deriver = None if derivation is None else _path(f"{derivation or name}.drv", twin)
        info = PathInfo(path, Hash.sha256(archive), len(archive), tuple(sorted(references)), deriver)
        with Store.open(str(self.store_root), create=True) as store:
            store.add_nar(info, nar.ChunkReader([archive]))
        self._paths.append(path)
        return path

    def publish(self) -> None:
        """Let real Nix write the cache, and write the channel's files as nixpkgs' channels have them."""
        nix = RealNix(self.store_root)
        target = f"file://{self.cache}?compression=xz&secret-key={self.secret}"
        nix.run("nix", "copy", "--extra-experimental-features", "nix-command", "--to", target, *map(str, self._paths))
        self.channel.mkdir(exist_ok=True)
        listed = "".join(f"{path}\n" for path in sorted(self._paths))
        (self.channel / "store-paths.xz").write_bytes(lzma.compress(listed.encode()))
        (self.channel / "binary-cache-url").write_text(f"file://{self.cache}")
        (self.channel / "git-revision").write_text("0123456789abcdef0123456789abcdef01234567")


def _path(name: str, salt: str) -> StorePath:
    digest = hashlib.sha256(f"{salt}:{name}".encode()).digest()[:20]
    return StorePath.parse(f"/nix/store/{base32.encode(digest)}-{name}")


def program(system: str, *names: str) -> nar.Directory:
    files = {name: nar.File(elf(system, name.encode()), executable=True) for name in names}
    return nar.Directory({"bin": nar.Directory(files)})


def tree(**files: str) -> nar.Directory:
    return nar.Directory({"share": nar.Directory({name: nar.File(text.encode()) for name, text in files.items()})})


def nixpkgs(directory: Path) -> ChannelMaker:
    """What the tests look names up in."""
    made = ChannelMaker(directory)
    for system in (X86, ARM):
        libc_tree = nar.Directory({"lib": nar.Directory({"libc.so.6": nar.File(elf(system), executable=True)})})
        libc = made.build("glibc-2.40-66", libc_tree, derivation=f"glibc-{system}", twin=system)
        zlib = made.build("zlib-1.3.1", program(system, "minigzip"), libc, derivation=f"zlib-{system}")
        made.build("htop-3.3.0", program(system, "htop"), zlib, derivation=f"htop-{system}")
        made.build("htop-3.3.0-man", tree(htop="the manual"), derivation=f"htop-{system}")
        for output in ("", "-bin", "-dev", "-doc", "-man"):
            node = program(system, "openssl") if output in ("", "-bin") else tree(about=output)
            made.build(f"openssl-3.4.1{output}", node, *([libc] if output in ("", "-bin") else []),
                       derivation=f"openssl-{system}")  # fmt: skip
    x86 = made._paths[0]
    made.build("htop-3.2.2", program(X86, "htop"), x86, derivation="htop-old")
    made.build("python3-3.12.8", program(X86, "python3"), x86, derivation="python-full", twin="full")
    made.build("python3-3.12.8", program(X86, "python"), x86, derivation="python-minimal", twin="minimal")
    made.build("tzdata-2025a", tree(Rome="CET"), derivation="tzdata")
    for system in (X86, ARM):  # the same data, and data that differs
        made.build("iso-codes-4.15", tree(codes="de en"), derivation=f"iso-codes-{system}")
        made.build("fonts-1.0", tree(made_on=system), derivation=f"fonts-{system}")
    made.build("only-arm-1.0", program(ARM, "only"), derivation="only")
    made.build("lone-1.5", program(X86, "lone"), x86, derivation=None)
    made.publish()
    return made
