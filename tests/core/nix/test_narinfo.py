"""narinfo and nix-cache-info: what real Nix wrote (tests/golden/closure), and all that must be refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix import narinfo
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.narinfo import CacheInfo, NarInfo
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from tests.core.nix import closure
from tests.core.nix.closure import APP, DERIVER, FOLDER, LEAF
from tests.oracle import RealNix

DATA = (FOLDER / f"{APP.hash_part}.narinfo").read_bytes()
LEAF_DATA = (FOLDER / f"{LEAF.hash_part}.narinfo").read_bytes()
DIGITS = Hash.sha256(b"").base32


def test_what_nix_wrote_is_read() -> None:
    info = narinfo.parse(DATA, "golden", APP.hash_part)
    assert (info.path, info.references, info.deriver) == (APP, (APP, LEAF), DERIVER)
    assert (info.compression, info.file_size, info.nar_size, info.ca) == ("none", 592, 592, "")
    assert info.file_hash == info.nar_hash
    assert info.url == f"nar/{info.nar_hash.base32}.nar"
    leaf = narinfo.parse(LEAF_DATA, "golden")
    assert (leaf.references, leaf.deriver, leaf.ca) == ((), None, f"fixed:r:{leaf.nar_hash.nix}")


@pytest.mark.parametrize("data", [DATA, LEAF_DATA], ids=["app", "tree"])
def test_what_nix_wrote_is_written_byte_for_byte(data: bytes) -> None:
    assert narinfo.parse(data, "golden").serialise() == data


@pytest.mark.nix
def test_real_nix_still_writes_the_golden_files(store: Store, nix: RealNix, tmp_path: Path) -> None:
    closure.fill(store)
    folder = tmp_path / "made"
    folder.mkdir()
    closure.write(nix, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in FOLDER.iterdir()
    }
    nix.verify()


MINIMAL = f"StorePath: {LEAF}\nURL: nar/x.nar\nNarHash: sha256:{DIGITS}\nNarSize: 1\n".encode()


def test_what_may_be_missing_may_be_missing() -> None:
    expected = NarInfo(LEAF, "nar/x.nar", "bzip2", None, None, Hash.sha256(b""), 1, (), None, (), "")
    assert narinfo.parse(MINIMAL, "x") == expected
    for line in ("References: ", "Deriver: unknown-deriver", "Compression: ", "CA: ", "FileHash: ", "Else: \xff\x01"):
        assert narinfo.parse(MINIMAL + line.encode() + b"\n", "x") == expected
    assert narinfo.parse(expected.serialise(), "x") == expected


@pytest.mark.parametrize(
    "spelling",
    [f"sha256:{Hash.sha256(b'').base16}", Hash.sha256(b"").sri, f"sha256:{Hash.sha256(b'').base64}"],
)
def test_hashes_may_be_spelled_in_any_way_and_are_written_in_one(spelling: str) -> None:
    data = MINIMAL.replace(f"sha256:{DIGITS}".encode(), spelling.encode())
    assert narinfo.parse(data, "x").nar_hash == Hash.sha256(b"")
    if spelling.startswith("sha256:"):
        addressed = narinfo.parse(data + f"CA: fixed:r:{spelling}\n".encode(), "x")
        assert addressed.ca == f"fixed:r:sha256:{DIGITS}"


@pytest.mark.parametrize("url", ["x", "nar/a.nar.xz", "nar/a.nar?hash=b", "nar/a%20b.nar", "a/b/c.nar", "..nar/..."])
def test_an_url_below_the_cache_is_read(url: str) -> None:
    assert narinfo.parse(MINIMAL.replace(b"nar/x.nar", url.encode()), "x").url == url


SIG = narinfo.parse(DATA, "x").signatures[0]
# What is put in the place of what, and what the message must say.
WRONG = {
    "empty": (None, "", "StorePath is missing"),
    "no path": (r"StorePath.*\n", "", "StorePath is missing"),
    "no URL": (r"URL.*\n", "", "URL is missing"),
    "no hash": (r"NarHash.*\n", "", "NarHash is missing"),
    "no size": (r"NarSize.*\n", "", "NarSize is missing"),
    "empty URL": (r"nar/.*", "", "URL is missing"),
    "path elsewhere": (r"/nix/store/\S*", "/gnu/store/" + LEAF.base_name, "StorePath: .* not in /nix/store"),
    "path escaping": (r"/nix/store/\S*", "/nix/store/../../etc/shadow", "StorePath: "),
    "path below": (r"/nix/store/\S*", f"{LEAF}/bin", "StorePath: "),
    "path with a return": (r"-app-1.0\n", "-app-1.0\r\n", "StorePath: .*no printable ASCII"),
    "other path": (r"/nix/store/\S*", str(LEAF), f"StorePath: {LEAF} is not the path that was asked for"),
    "URL up": (r"nar/.*", "../outside.nar", "URL: '../outside.nar' is no path below the cache"),
    "URL up inside": (r"nar/.*", "nar/../../outside.nar", "URL: "),
    "URL up in disguise": (r"nar/.*", "nar/%2e%2E/outside.nar", "URL: "),
    "URL up in a double disguise": (r"nar/.*", "nar/%252e%252e/x", "URL: "),
    "URL with a hidden slash": (r"nar/.*", "nar/..%2fx", "URL: "),
    "URL with a back slash": (r"nar/.*", r"nar\\..\\x", "URL: "),
    "absolute URL": (r"nar/.*", "/etc/shadow", "URL: "),
    "URL of a host": (r"nar/.*", "//evil.example/x.nar", "URL: "),
    "URL with a scheme": (r"nar/.*", "https://evil.example/x.nar", "URL: "),
    "URL of a file": (r"nar/.*", "file:///etc/shadow", "URL: "),
    "URL with a line break": (r"nar/.*", "nar/x%0d%0aHost: y", "URL: "),
    "URL with a bad escape": (r"nar/.*", "nar/%zz", "URL: "),
    "URL with a fragment": (r"nar/.*", "nar/x#y", "URL: "),
    "URL too long": (r"nar/.*", "n" * 2049, "URL: "),
    "compression with a path": (r"none", "../xz", "Compression: "),
    "hash of another algorithm": (r"NarHash: .*", f"NarHash: sha1:{'0' * 40}", "NarHash: .*sha1"),
    "hash without algorithm": (r"NarHash: sha256:", "NarHash: ", "NarHash: "),
    "hash too short": (r"NarHash: sha256:.", "NarHash: sha256:", "NarHash: "),
    "hash with a foreign digit": (r"NarHash: sha256:.", "NarHash: sha256:e", "NarHash: "),
    "file hash": (r"FileHash: .*", "FileHash: md4:00", "FileHash: "),
    "file size negative": (r"FileSize: .*", "FileSize: -1", "FileSize: '-1' is no number of bytes"),
    "size 0": (r"NarSize: .*", "NarSize: 0", "NarSize: 0 is none"),
    "size negative": (r"NarSize: .*", "NarSize: -592", "NarSize: '-592' is no number of bytes"),
    "size with a sign": (r"NarSize: .*", "NarSize: +592", "NarSize: "),
    "size with a unit": (r"NarSize: .*", "NarSize: 1k", "NarSize: "),
    "size in other digits": (r"NarSize: .*", "NarSize: \u0665", "NarSize: "),
    "size huge": (r"NarSize: .*", f"NarSize: {2**63}", "NarSize: .* bytes are allowed"),
    "size of many digits": (r"NarSize: .*", "NarSize: " + "9" * 4000, "NarSize: "),
    "references by full path": (r"References: ", "References: /nix/store/", "References: "),
    "references with a dash missing": (r"-tree", "_tree", "References: "),
    "a reference without an end": (r"References: .*", f"References: {'a' * 100000}", "References: .*100000 characters"),
    "deriver by full path": (r"Deriver: ", "Deriver: /nix/store/", "Deriver: "),
    "deriver empty": (r"Deriver: .*", "Deriver: ", "Deriver: "),
    "signature without a name": (r"Sig: golden-1:", "Sig: ", "Sig: "),
    "signature cut": (r"Sig: .*", f"Sig: {SIG[:-4]}", "Sig: .*63 bytes, not 64"),
    "signature of nothing": (r"Sig: .*", "Sig: golden-1:", "Sig: "),
    "too many signatures": (r"(?s)Sig: .*", "", "Sig: more than 64"),
    "CA of another kind": (r"\Z", f"CA: git:sha256:{DIGITS}\n", "CA: "),
    "CA of a text by sha1": (r"\Z", f"CA: text:sha1:{'0' * 32}\n", "CA: "),
    "CA in another spelling": (r"\Z", f"CA: fixed:r:{Hash.sha256(b'').sri}\n", "CA: "),
    "CA without a hash": (r"\Z", "CA: fixed:r:sha256:\n", "CA: "),
    **{
        f"{key} twice": (rf"({key}: .*\n)", r"\1\1", rf"line \d+: {key} stands there twice")
        for key in ("StorePath", "URL", "Compression", "FileHash", "NarHash", "NarSize", "References", "Deriver")
    },
    "CA twice": (r"\Z", "CA: \nCA: \n", "CA stands there twice"),
    "no newline at the end": (r"\n\Z", "", "line 10 is not ended by a newline"),
    "a line without a colon": (r"\Z", "nonsense\n", "line 11 is not of the form"),
    "a line without a space": (r"References: ", "References:", "line 8 is not of the form"),
    "an empty line": (r"URL", "\nURL", "line 2 is not of the form"),
    "an escape sequence": (r"none", "\x1b[2J", "Compression: .*no printable ASCII"),
    "a NUL": (r"-app-1.0\n", "-app-1.0\0\n", "StorePath: .*no printable ASCII"),
    "too many lines": (r"\Z", "X: \n" * 1024, "more than 1024 lines"),
    "too large": (r"\Z", "X: " + "x" * narinfo.MAX_SIZE + "\n", "bytes; a narinfo has at most"),
}


def spoiled(name: str) -> bytes:
    pattern, text, _ = WRONG[name]
    if name == "too many signatures":
        return DATA + b"".join(f"Sig: k{n}:{SIG.partition(':')[2]}\n".encode() for n in range(64))
    if pattern is None:
        return b""
    made, count = re.subn(pattern, text, DATA.decode(), count=1)
    assert count == 1
    return made.encode()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_narinfo_is_refused_naming_where_and_the_field(name: str) -> None:
    with pytest.raises(FormatError, match=WRONG[name][2]) as caught:
        narinfo.parse(spoiled(name), "https://cache.example/x.narinfo", APP.hash_part)
    assert caught.value.message.startswith("https://cache.example/x.narinfo: ")
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("end", range(0, len(DATA) - 1, 7))
def test_a_narinfo_cut_short_is_refused(end: int) -> None:
    """Unless it is cut between two lines, where nothing tells: then the signature, or the line it lacks, does."""
    if DATA[end - 1 : end] == b"\n" and b"NarSize" in DATA[:end]:
        return
    with pytest.raises(FormatError):
        narinfo.parse(DATA[:end], "x")


def test_the_same_signature_twice_is_kept_once() -> None:
    assert narinfo.parse(DATA + f"Sig: {SIG}\n".encode(), "x").signatures == (SIG,)


def test_a_value_is_checked_where_it_is_made_too() -> None:
    info = narinfo.parse(DATA, "x")
    assert replace(info, references=(LEAF, APP, LEAF)).references == (APP, LEAF)
    for wrong in ({"url": "../x"}, {"nar_size": 0}, {"nar_hash": Hash("md5", bytes(16))}):
        with pytest.raises(FormatError):
            replace(info, **wrong)


# --- nix-cache-info ---------------------------------------------------------------------------------------------------


def test_the_cache_info_that_nix_wrote_is_read_and_written() -> None:
    data = (FOLDER / "nix-cache-info").read_bytes()
    assert narinfo.parse_cache_info(data, "x") == CacheInfo()
    assert CacheInfo().serialise() == data


@pytest.mark.parametrize(
    ("text", "info"),
    [
        ("", CacheInfo()),
        ("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n", CacheInfo("/nix/store", True, 40)),
        ("StoreDir:/nix/store \r\n\nPriority: -1\nWantMassQuery: 0\nElse: x", CacheInfo("/nix/store", False, -1)),
    ],
)
def test_cache_infos_that_people_write_are_read(text: str, info: CacheInfo) -> None:
    assert narinfo.parse_cache_info(text.encode(), "x") == info
    assert narinfo.parse_cache_info(info.serialise(), "x") == info


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("StoreDir: /gnu/store\n", "x: StoreDir: the cache is of '/gnu/store', not of /nix/store"),
        ("StoreDir:\n", "StoreDir: "),
        ("Priority: high\n", "Priority: 'high' is no number"),
        ("Priority: \n", "Priority: "),
        ("Priority: " + "1" * 5000, "Priority: "),
        ("Priority: 1\nPriority: 2\n", "line 2: Priority stands there twice"),
        ("<html>\n", "line 1 is not of the form"),
        ("x: " + "y" * narinfo.MAX_CACHE_INFO_SIZE, "has at most"),
    ],
)
def test_a_wrong_cache_info_is_refused(text: str, told: str) -> None:
    with pytest.raises(FormatError, match=told):
        narinfo.parse_cache_info(text.encode(), "x")


def test_a_deriver_need_not_end_in_drv() -> None:
    data = DATA.replace(DERIVER.base_name.encode(), LEAF.base_name.encode())
    assert narinfo.parse(data, "x").deriver == StorePath.parse(str(LEAF))
