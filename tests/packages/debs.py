"""Debian packages made by hand, good and bad, and an apt that has them."""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.nix.hashes import Hash
from reconciler.packages.toolchain import Deb


def entry(
    name: str, contents: bytes = b"", *, mode: int = 0o644, kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """One member of a tar archive."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.type, member.linkname = len(contents), mode, kind, target
    return member, contents


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=tarfile.SYMTYPE, target=target)


def tar(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member, contents in entries:
            archive.addfile(member, io.BytesIO(contents))
    return stream.getvalue()


def ar(members: Sequence[tuple[str, bytes]]) -> bytes:
    parts = [b"!<arch>\n"]
    for name, contents in members:
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(contents):<10}`\n".encode())
        parts.append(contents + b"\n" * (len(contents) % 2))
    return b"".join(parts)


def deb(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    data = lzma.compress(tar(entries))
    return ar([("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(tar([]))), ("data.tar.xz", data)])


def pinned(package: str, content: bytes, version: str = "1.0-1", url: str | None = None) -> Deb:
    return Deb(package, version, "amd64", Hash.sha256(content), url)


@dataclass
class FakeApt:
    """Stands where apt is run; a mirror that has `files`, by package and version."""

    files: dict[tuple[str, str], bytes]
    after_update: dict[tuple[str, str], bytes] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def __call__(self, command: Sequence[str], environment: dict[str, str], cwd: Path | None) -> str:
        name = next((word for word in command[1:] if not word.startswith("-")), "")
        self.commands.append(name)
        if name == "update":
            self.files |= self.after_update
        if name == "madison":
            return "".join(f" {package} | {version} | mirror amd64\n" for package, version in self.files)
        if name == "show":
            return "\n\n".join(
                f"Package: {package}\nVersion: {version}\nArchitecture: amd64\nSHA256: {Hash.sha256(content).base16}"
                for (package, version), content in self.files.items()
            )
        if name == "install":
            return "".join(f"Inst {package} ({version} mirror [amd64])\n" for package, version in self.files)
        if name == "download":
            assert cwd is not None
            for package, version in re.findall(r"(\S+)=(\S+)", " ".join(command[2:])):
                (cwd / f"{package}_{version.replace(':', '%3a')}_amd64.deb").write_bytes(self.files[package, version])
        return ""
