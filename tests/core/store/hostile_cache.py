"""Caches that lie: the files of golden/hostile/cache, and what is said of each.

`python -m tests.core.store.hostile_cache` writes them again. `right.narinfo` is a right one of PATH, whose archive is
`right.nar.xz`; each of the others differs from it in one thing. All but those whose signature is the point are signed
by KEY, which is trusted: what is refused is not refused for its signature.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
from collections.abc import Callable
from pathlib import Path

from reconciler.core.nix import nar, store_path
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.narinfo import NarInfo
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import replace
from reconciler.packages.keys import SecretKey

GOLDEN = Path(__file__).parents[2] / "golden/hostile/cache"

KEY = SecretKey("cache.test-1", hashlib.sha256(b"trusted").digest())
UNKNOWN = SecretKey("cache.other-1", hashlib.sha256(b"unknown").digest())
IMPOSTOR = SecretKey("cache.test-1", hashlib.sha256(b"of the same name").digest())

ARCHIVE = nar.encode(nar.Directory({"bin": nar.Directory({"orders": nar.File(b"#!/bin/sh\n" * 400, True)})}))
PATH = store_path.output_path("out", hashlib.sha256(b"orders").hexdigest(), "orders-1.0")
OTHER = store_path.output_path("out", hashlib.sha256(b"other").hexdigest(), "orders-1.0")


def _kept(name: str, make: Callable[[], bytes]) -> bytes:
    """A file as it was made once: compressors of other versions make other bytes of the same."""
    file = GOLDEN / name
    return file.read_bytes() if file.exists() else make()


FILE = _kept("right.nar.xz", lambda: lzma.compress(ARCHIVE))
# bzip2 makes 45,899,235 zeros 40 bytes long. Twenty of those are a file of a kilobyte, and a gigabyte when unpacked.
_ZEROS = 45_899_235
BOMB = 20


def many(count: int) -> list[StorePath]:
    """Paths that no cache has."""
    return [store_path.output_path("out", hashlib.sha256(b"%d" % n).hexdigest(), f"absent-{n}") for n in range(count)]


def right(data: bytes = FILE, compression: str = "xz", suffix: str = ".xz") -> NarInfo:
    """The narinfo of PATH, without a signature; its archive's file is `data`."""
    found = Hash.sha256(data)
    return NarInfo(
        path=PATH,
        url=f"nar/{found.base32}.nar{suffix}",
        compression=compression,
        file_hash=found,
        file_size=len(data),
        nar_hash=Hash.sha256(ARCHIVE),
        nar_size=len(ARCHIVE),
        references=(),
        deriver=None,
        signatures=(),
        ca="",
    )


def signed(narinfo: NarInfo, key: SecretKey = KEY) -> NarInfo:
    return replace(narinfo, signatures=(key.sign(narinfo.fingerprint),))


def text(**changes: str | None) -> bytes:
    """The right narinfo with other values in these fields (None: without the field), signed as it was before."""
    lines = signed(right()).serialise().decode().splitlines()
    fields = dict(line.split(": ", 1) for line in lines) | changes
    return "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None).encode()


def resigned(**changes: str | None) -> bytes:
    """Likewise, signed for the new values: what a careless or a bribed signer would sign."""
    fields = dict(line.split(": ", 1) for line in text(**changes).decode().splitlines())
    references = ",".join(sorted(f"/nix/store/{name}" for name in fields["References"].split()))
    fingerprint = f"1;{fields['StorePath']};{fields['NarHash']};{fields['NarSize']};{references}"
    return text(**changes, Sig=KEY.sign(fingerprint.encode()))


def twice(field: str) -> bytes:
    line = next((line for line in text().splitlines(True) if line.startswith(field.encode())), f"{field}: \n".encode())
    return text() + (line * (1 if line in text() else 2))


def address(path: StorePath = PATH) -> str:
    """A content address that PATH does not follow from."""
    return f"fixed:r:{Hash.sha256(ARCHIVE + str(path).encode()).nix}"


# By name: the file, and what is said of it.
NARINFOS: dict[str, tuple[bytes, str]] = {
    "unsigned": (text(Sig=None), "Sig: /nix/store/.*orders-1.0 is not signed"),
    "unknown-key": (
        signed(right(), UNKNOWN).serialise(),
        "Sig: .* is signed by cache.other-1, which is not trusted",
    ),
    "right-name-with-another-key": (
        signed(right(), IMPOSTOR).serialise(),
        "Sig: the signature by 'cache.test-1' is not right for the StorePath, NarHash, NarSize and References",
    ),
    "signature-damaged": (text(Sig="cache.test-1:AAAA"), "Sig: the signature of 'cache.test-1' has 3 bytes, not 64"),
    "references-added": (text(References=OTHER.base_name), "Sig: the signature .* is not right"),
    "size-changed": (text(NarSize=str(len(ARCHIVE) + 8)), "Sig: the signature .* is not right"),
    "hash-changed": (text(NarHash=Hash.sha256(b"").nix), "Sig: the signature .* is not right"),
    "path-of-another": (resigned(StorePath=str(OTHER)), "StorePath: .* is not the path that was asked for"),
    "path-of-another-name": (
        resigned(StorePath=f"/nix/store/{PATH.hash_part}-bash-5.2"),
        "StorePath: .*bash-5.2 is not /nix/store/.*orders-1.0, which was asked for",
    ),
    "path-of-another-store": (text(StorePath=f"/gnu/store/{PATH.base_name}"), "StorePath: .*it is not in /nix/store"),
    "path-escaping": (text(StorePath="/nix/store/../../etc/passwd"), "StorePath: .* is no store path"),
    "url-escaping": (text(URL="../outside.nar"), "URL: '../outside.nar' is no path below the cache"),
    "url-escaping-within": (text(URL="nar/../../outside.nar"), "URL: .* is no path below the cache"),
    "url-escaping-in-disguise": (text(URL="nar/%2e%2e/x.nar"), "URL: .* is no path below the cache"),
    "url-absolute": (text(URL="/etc/passwd"), "URL: '/etc/passwd' is no path below the cache"),
    "url-of-another-host": (text(URL="//evil.example/x.nar"), "URL: .* is no path below the cache"),
    "url-with-a-scheme": (text(URL="file:///etc/passwd"), "URL: .* is no path below the cache"),
    "url-http": (text(URL="http://169.254.169.254/latest"), "URL: .* is no path below the cache"),
    "url-missing": (text(URL=None), "URL is missing"),
    "size-0": (resigned(NarSize="0"), "NarSize: 0 is none"),
    "size-negative": (resigned(NarSize="-1"), "NarSize: '-1' is no number of bytes"),
    "size-huge": (resigned(NarSize="18446744073709551615"), "NarSize: 18446744073709551615 is none"),
    "size-huge-still": (resigned(NarSize="9" * 40), "NarSize: '9+' is no number of bytes"),
    "size-missing": (text(NarSize=None), "NarSize is missing"),
    "hash-missing": (text(NarHash=None), "NarHash is missing"),
    "hash-of-another-kind": (text(NarHash="md5:" + "0" * 32), "NarHash: a sha256 is wanted"),
    "references-twice": (twice("References"), "References stands there twice"),
    "ca-twice": (twice("CA"), "CA stands there twice"),
    "hash-twice": (twice("NarHash"), "NarHash stands there twice"),
    "path-twice": (twice("StorePath"), "StorePath stands there twice"),
    "no-last-newline": (text()[:-1], "is not ended by a newline: the file is cut short"),
    "compression-unknown": (text(Compression="rot13"), "Compression: 'rot13' is not a method that can be used"),
    "compression-of-old": (text(Compression="br"), "Compression: 'br' is not a method that can be used"),
    "file-size-huge": (text(FileSize=str(1 << 40)), "FileSize: 1099511627776 bytes cannot be those of an archive"),
    "file-size-0": (text(FileSize="0"), "FileSize: 0 bytes cannot be"),
    "address-that-is-false": (text(CA=address()), "CA: what has this content address lies at /nix/store/"),
    "address-instead-of-a-signature": (text(CA=address(), Sig=None), "CA: what has this content address lies at"),
    "address-with-references": (
        resigned(CA=f"fixed:sha1:{'0' * 32}", References=OTHER.base_name),
        "CA: a fixed output cannot have references",
    ),
    "address-of-nothing": (text(CA="magic:sha256:x"), "CA: 'magic:sha256:x' is no content address"),
    "a-page-to-log-in": (b"<!DOCTYPE html>\n<title>Hotel</title>\n", "line 1 is not of the form 'Key: value'"),
    "empty": (b"", "StorePath is missing"),
    "control-characters": (text(Deriver="\x1b]0;owned\x07"), "Deriver: it holds what is no printable ASCII"),
}

CACHE_INFOS: dict[str, tuple[bytes, str]] = {
    "store-of-another-place": (b"StoreDir: /gnu/store\n", "StoreDir: the cache is of '/gnu/store', not of /nix/store"),
    "a-page": (b"<!DOCTYPE html>\n<title>Hotel</title>\n", "line 1 is not of the form 'Key: value'"),
    "priority-of-words": (b"StoreDir: /nix/store\nPriority: high\n", "Priority: 'high' is no number"),
    "store-twice": (b"StoreDir: /nix/store\nStoreDir: /nix/store\n", "StoreDir stands there twice"),
}


# The start of an archive whose only file says that it has 2^40 bytes.
_DECLARED = nar.encode(nar.File(b""))[:-24] + (1 << 40).to_bytes(8, "little")
_MADE: dict[str, Callable[[], bytes]] = {
    "bomb-behind-the-archive.bz2": lambda: bz2.compress(ARCHIVE) + bz2.compress(bytes(_ZEROS)) * BOMB,
    "bomb.bz2": lambda: bz2.compress(bytes(_ZEROS)) * BOMB,
    "longer.xz": lambda: lzma.compress(ARCHIVE + bytes(8)),
    "other-contents.xz": lambda: lzma.compress(ARCHIVE.replace(b"/bin/sh", b"/bin/no")),
    "contents-of-2-40.xz": lambda: lzma.compress(_DECLARED),
    "not-xz.xz": lambda: b"PK" * 200,
}
FILES = {name: _kept(f"archive-{name}", make) for name, make in _MADE.items()}


def of(name: str) -> NarInfo:
    """What describes that file as the archive of PATH."""
    return right(FILES[name], "bzip2", ".bz2") if name.endswith(".bz2") else right(FILES[name])


# By name: the archive's file, the narinfo that goes with it, and what is said. All are signed, and trusted.
ARCHIVES: dict[str, tuple[bytes, NarInfo, str]] = {
    "bomb-behind-the-archive": (
        FILES["bomb-behind-the-archive.bz2"],
        of("bomb-behind-the-archive.bz2"),
        f"NarSize: it decompresses to more than the {len(ARCHIVE)} bytes",
    ),
    "bomb": (FILES["bomb.bz2"], of("bomb.bz2"), "NarSize: it decompresses to more than the"),
    "longer": (FILES["longer.xz"], of("longer.xz"), "NarSize: it decompresses to more than the"),
    "shorter": (
        FILE,
        replace(right(), nar_size=len(ARCHIVE) + 8),
        f"its NAR has {len(ARCHIVE)} bytes, not {len(ARCHIVE) + 8}",
    ),
    "other-contents": (FILES["other-contents.xz"], of("other-contents.xz"), "NarHash: the archive's hash is"),
    "other-file-hash": (FILE, replace(right(), file_hash=Hash.sha256(b"")), "FileHash: the file's hash is"),
    "other-file-size": (FILE, replace(right(), file_size=len(FILE) + 1), "FileSize: the file has"),
    "not-xz": (FILES["not-xz.xz"], of("not-xz.xz"), "it is not xz, or damaged"),
    "contents-of-2-40": (
        FILES["contents-of-2-40.xz"],
        replace(of("contents-of-2-40.xz"), nar_hash=Hash.sha256(_DECLARED), nar_size=len(_DECLARED)),
        "bad archive: it is cut short",
    ),
}


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for old in GOLDEN.iterdir():
        old.unlink()
    (GOLDEN / "right.narinfo").write_bytes(signed(right()).serialise())
    (GOLDEN / "right.nar.xz").write_bytes(FILE)
    for name, (data, _) in NARINFOS.items():
        (GOLDEN / f"{name}.narinfo").write_bytes(data)
    for name, (data, _) in CACHE_INFOS.items():
        (GOLDEN / f"{name}.cache-info").write_bytes(data)
    for name, data in FILES.items():
        (GOLDEN / f"archive-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
