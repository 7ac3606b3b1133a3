"""Debian packages as values: what is read, and what is refused."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError
from reconciler.packages import deb_archive
from tests.packages.debs import ar, deb, entry, link, tar


def read(tmp_path: Path, content: bytes) -> list[deb_archive.Member]:
    file = tmp_path / "thing.deb"
    file.write_bytes(content)
    return list(deb_archive.read(file))


ENTRIES = [
    entry("./usr/bin", mode=0o755, kind=tarfile.DIRTYPE),
    entry("./usr/bin/tool", b"program", mode=0o4755),
    entry("./usr/bin/same", kind=tarfile.LNKTYPE, target="./usr/bin/tool"),
    entry("./usr/share/text", b"text", mode=0o644),
    link("./usr/bin/short", "tool"),
]


def test_files_links_and_hard_links_are_read_without_owners_times_and_setuid_bits(tmp_path: Path) -> None:
    assert read(tmp_path, deb(ENTRIES)) == [
        deb_archive.Member(("usr", "bin", "tool"), b"program", True),
        deb_archive.Member(("usr", "bin", "same"), b"program", True),
        deb_archive.Member(("usr", "share", "text"), b"text"),
        deb_archive.Member(("usr", "bin", "short"), target="tool"),
    ]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_every_compression_that_debian_has_used_is_read(tmp_path: Path, suffix: str) -> None:
    data = tar(ENTRIES)
    if suffix == ".gz":
        data = gzip.compress(data)
    if suffix == ".zst":
        from reconciler.core.store.compression import compressor

        with_zstd = compressor("zstd")
        data = with_zstd.compress(data) + with_zstd.flush()
    assert len(read(tmp_path, ar([("debian-binary", b"2.0\n"), ("odd", b"x"), (f"data.tar{suffix}", data)]))) == 4


HOSTILE = {
    "a name that climbs": (deb([entry("./usr/../../etc/passwd")]), "leads out of the package"),
    "an absolute name": (deb([entry("/etc/passwd")]), "leads out of the package"),
    "a directory that climbs": (deb([entry("../x", kind=tarfile.DIRTYPE)]), "leads out of the package"),
    "a device": (deb([entry("./usr/sda", kind=tarfile.BLKTYPE)]), "neither a file nor a directory nor a link"),
    "a pipe": (deb([entry("./usr/pipe", kind=tarfile.FIFOTYPE)]), "neither a file nor a directory nor a link"),
    "a hard link to what is elsewhere": (
        deb([entry("./usr/x", kind=tarfile.LNKTYPE, target="etc/shadow")]),
        "which does not come before it",
    ),
    "a hard link that climbs": (
        deb([entry("./usr/x", kind=tarfile.LNKTYPE, target="../../etc/shadow")]),
        "leads out of the package",
    ),
    "a file in the place of /": (deb([entry("./", b"x")]), "in the place of /"),
    "no ar archive": (b"PK\x03\x04", "does not begin as an ar archive"),
    "a damaged head": (ar([("debian-binary", b"2.0\n")]) + b"x" * 60, "its ar archive is damaged"),
    "a cut head": (ar([("debian-binary", b"2.0\n")]) + b"x", "its ar archive is damaged"),
    "no files": (ar([("debian-binary", b"2.0\n")]), "it has no data.tar"),
    "a compression of nobody": (ar([("data.tar.lha", b"")]), "no way to decompress"),
    "a cut archive": (deb(ENTRIES)[:-40], "thing.deb is no package that can be used"),
    "damaged data": (ar([("data.tar.xz", b"\xfd7zXZ\0 not really")]), "not xz, or damaged"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_package_that_no_store_should_hold_is_refused(tmp_path: Path, what: str) -> None:
    content, message = HOSTILE[what]
    with pytest.raises(FormatError, match=r"thing\.deb is no package") as error:
        read(tmp_path, content)
    assert message in error.value.message


def test_what_a_package_unpacks_to_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deb_archive, "MAX_UNPACKED", 100_000)
    with pytest.raises(FormatError, match="decompresses to more than"):
        read(tmp_path, deb([entry("./usr/zeros", bytes(1_000_000))]))
    monkeypatch.setattr(deb_archive, "MAX_MEMBERS", 3)
    with pytest.raises(FormatError, match="more than 3 files"):
        read(tmp_path, deb(ENTRIES))
