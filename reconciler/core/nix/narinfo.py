"""What a binary cache says of itself and of each path: nix-cache-info, and <hash part>.narinfo.

    narinfo      lines `Key: value` with a newline after each, the last too
      StorePath    full path                                     once, required
      URL          of the archive, relative to the cache         once, required
      Compression  none, xz, …; missing or empty means bzip2     at most once, like all that follow but Sig
      FileHash     of the compressed file; FileSize its bytes    not what trust rests on
      NarHash      a sha256; NarSize its bytes, not 0            required
      References   base names with a space between, maybe none
      Deriver      base name, or unknown-deriver
      Sig          name:base-64                                  any number
      CA           text:sha256:<hash>, fixed:[r:]<algorithm>:<hash>
    cache info   lines `Key: value`: StoreDir, WantMassQuery (1), Priority

Keys of other names are passed over. As strict as Nix 2.34, and stricter where it takes the last of several: what could
be read in two ways is refused. An URL never leaves its cache: no scheme, no host, no absolute path, no `..`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Callable, TypeVar

from reconciler.core.errors import FormatError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.signature import Signature, fingerprint
from reconciler.core.nix.store_path import HASH_PART_LENGTH, MAX_NAME_LENGTH, STORE_DIR, StorePath
from reconciler.core.values import value

T = TypeVar("T")

MAX_SIZE = 4 * 1024 * 1024  # of a narinfo: 60,000 references
MAX_LINES = 1024
MAX_CACHE_INFO_SIZE = 64 * 1024
MAX_SIGNATURES = 64
MAX_NAR_SIZE = 1 << 48  # no file system that /nix could lie on holds more
MAX_URL = 2048
MAX_VALUE = 4096  # characters of any value but References

_NUMBER = re.compile(r"[0-9]{1,20}")
_PRINTABLE = re.compile(r"[ -~]*")
_COMPRESSION = re.compile(r"[a-z0-9.+\-]{1,32}")
_URL = re.compile(rf"[A-Za-z0-9._~+=@,&%?/\-]{{1,{MAX_URL}}}")
# A dot, a slash, a percent sign or a control character in disguise: a server would see through it, we would not.
_DISGUISED = re.compile(r"%(?:2[ef5]|5c|[01][0-9a-f]|7f)|%(?![0-9a-f]{2})", re.IGNORECASE)
_ADDRESS = re.compile(r"(text:|fixed:(?:r:)?)((?:md5|sha1|sha256|sha512):.*)", re.DOTALL)
_PRIORITY = re.compile(r"-?[0-9]{1,9}")


@value
class NarInfo:
    """What a cache says of one path. `url` is relative to the cache; sizes are in bytes; `references` are sorted and
    may hold the path itself; `signatures` as `name:base-64`; `ca` is empty, or how the path follows from its contents.
    """

    path: StorePath
    url: str
    compression: str
    file_hash: Hash | None
    file_size: int | None
    nar_hash: Hash
    nar_size: int
    references: tuple[StorePath, ...]
    deriver: StorePath | None
    signatures: tuple[str, ...]
    ca: str

    def __post_init__(self) -> None:
        _check_url(self.url)
        if self.nar_hash.algorithm != "sha256":
            raise FormatError(f"NarHash: a sha256 is wanted, not a {self.nar_hash.algorithm}")
        if not 0 < self.nar_size <= MAX_NAR_SIZE:
            raise FormatError(f"NarSize: {self.nar_size} is none; 1 to {MAX_NAR_SIZE} bytes are allowed")
        object.__setattr__(self, "references", tuple(sorted(set(self.references))))

    @property
    def fingerprint(self) -> bytes:
        """What its signatures sign."""
        return fingerprint(self.path, self.nar_hash, self.nar_size, self.references)

    def serialise(self) -> bytes:
        """The file's bytes, as Nix writes them."""
        lines = [
            ("StorePath", str(self.path)),
            ("URL", self.url),
            ("Compression", self.compression),
            *([("FileHash", self.file_hash.nix)] if self.file_hash is not None else ()),
            *([("FileSize", str(self.file_size))] if self.file_size is not None else ()),
            ("NarHash", self.nar_hash.nix),
            ("NarSize", str(self.nar_size)),
            ("References", " ".join(reference.base_name for reference in self.references)),
            *([("Deriver", self.deriver.base_name)] if self.deriver is not None else ()),
            *(("Sig", signature) for signature in self.signatures),
            *([("CA", self.ca)] if self.ca else ()),
        ]
        return "".join(f"{key}: {text}\n" for key, text in lines).encode()


def parse(data: bytes, shown: str, hash_part: str | None = None) -> NarInfo:
    """The narinfo in `data`; FormatError, naming `shown` (where it is from) and the field, when it is not one, or when
    it is of another path than the one of `hash_part`."""
    if len(data) > MAX_SIZE:
        raise FormatError(f"{shown}: {len(data)} bytes; a narinfo has at most {MAX_SIZE}")
    found, signatures = _collect(data, shown)
    try:
        return _build(found, signatures, hash_part)
    except FormatError as error:
        raise FormatError(f"{shown}: {error.message}", hint=error.hint) from None


def _build(found: Mapping[str, str], signatures: tuple[str, ...], hash_part: str | None) -> NarInfo:
    path = _named("StorePath", StorePath.parse, _required(found, "StorePath"))
    if hash_part is not None and path.hash_part != hash_part:
        raise FormatError(f"StorePath: {path} is not the path that was asked for ({hash_part})")
    deriver = found.get("Deriver", "unknown-deriver")
    return NarInfo(
        path=path,
        url=_required(found, "URL"),
        compression=_compression(found.get("Compression") or "bzip2"),
        file_hash=_named("FileHash", Hash.parse, found["FileHash"]) if found.get("FileHash") else None,
        file_size=_number("FileSize", found["FileSize"]) if "FileSize" in found else None,
        nar_hash=_named("NarHash", Hash.parse, _required(found, "NarHash")),
        nar_size=_number("NarSize", _required(found, "NarSize")),
        references=_named("References", _references, found.get("References", "")),
        deriver=None if deriver == "unknown-deriver" else _named("Deriver", StorePath.from_base_name, deriver),
        signatures=signatures,
        ca=_address(found["CA"]) if found.get("CA") else "",
    )


_ONCE = frozenset(
    ("StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "CA")
)


def _collect(data: bytes, shown: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The values by key, and those of Sig in their order, each once."""
    found: dict[str, str] = {}
    signatures: dict[str, None] = {}
    for number, key, text in _lines(data, shown):
        if key == "Sig":
            _checked(f"{shown}: line {number}: Sig", text, MAX_VALUE)
            signatures[str(_named(f"{shown}: line {number}: Sig", Signature.parse, text))] = None
            if len(signatures) > MAX_SIGNATURES:
                raise FormatError(f"{shown}: Sig: more than {MAX_SIGNATURES} signatures")
        elif key in found:
            raise FormatError(f"{shown}: line {number}: {key} stands there twice")
        elif key in _ONCE:
            found[key] = _checked(
                f"{shown}: line {number}: {key}", text, MAX_SIZE if key == "References" else MAX_VALUE
            )
    return found, tuple(signatures)


def _lines(data: bytes, shown: str) -> Iterator[tuple[int, str, str]]:
    whole = data.decode("ascii", errors="surrogateescape")
    number = start = 0
    while start < len(whole):
        number += 1
        if number > MAX_LINES:
            raise FormatError(f"{shown}: more than {MAX_LINES} lines")
        end = whole.find("\n", start)
        if end < 0:
            raise FormatError(f"{shown}: line {number} is not ended by a newline: the file is cut short")
        key, colon, text = whole[start:end].partition(": ")
        if not colon:
            raise FormatError(f"{shown}: line {number} is not of the form 'Key: value'")
        yield number, key, text
        start = end + 1


def _checked(where: str, text: str, limit: int) -> str:
    """The text itself: what is shown in messages, written to logs and sent to servers has no control characters."""
    if len(text) > limit:
        raise FormatError(f"{where}: {len(text)} characters; {limit} are allowed")
    if _PRINTABLE.fullmatch(text) is None:
        raise FormatError(f"{where}: it holds what is no printable ASCII")
    return text


def _required(found: Mapping[str, str], key: str) -> str:
    if not found.get(key):
        raise FormatError(f"{key} is missing")
    return found[key]


def _named(field: str, read: Callable[[str], T], text: str) -> T:
    """What `read` makes of `text`; its complaints name the field."""
    try:
        return read(text)
    except FormatError as error:
        raise FormatError(f"{field}: {error.message}", hint=error.hint) from None


def _number(field: str, text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise FormatError(f"{field}: {text[:80]!r} is no number of bytes")
    return int(text)


def _references(text: str) -> tuple[StorePath, ...]:
    names = [name for name in text.split(" ") if name]
    longest = HASH_PART_LENGTH + 1 + MAX_NAME_LENGTH
    for name in names:
        if len(name) > longest:
            raise FormatError(f"'{name[:80]}…' is no store path: it has {len(name)} characters")
    return tuple(map(StorePath.from_base_name, names))


def _compression(text: str) -> str:
    if _COMPRESSION.fullmatch(text) is None:
        raise FormatError(f"Compression: {text[:80]!r} names no method")
    return text


def _address(text: str) -> str:
    """A content address in the spelling that Nix writes."""
    match = _ADDRESS.fullmatch(text)
    if match is None or (match.group(1) == "text:" and not match.group(2).startswith("sha256")):
        raise FormatError(f"CA: {text[:80]!r} is no content address")
    return match.group(1) + _named("CA", Hash.parse, match.group(2)).nix


def _check_url(url: str) -> None:
    bad = _URL.fullmatch(url) is None or _DISGUISED.search(url) is not None
    steps = url.partition("?")[0].split("/")
    if bad or any(step in ("", ".", "..") for step in steps):
        raise FormatError(f"URL: {url[:80]!r} is no path below the cache")


# --- nix-cache-info ---------------------------------------------------------------------------------------------------


@value
class CacheInfo:
    """What a cache says of itself. `priority`: the lower, the earlier it is asked; None where it says nothing."""

    store_dir: str = STORE_DIR
    want_mass_query: bool = False
    priority: int | None = None

    def serialise(self) -> bytes:
        """The bytes of nix-cache-info."""
        lines = [f"StoreDir: {self.store_dir}"]
        if self.want_mass_query:
            lines.append("WantMassQuery: 1")
        if self.priority is not None:
            lines.append(f"Priority: {self.priority}")
        return "".join(f"{line}\n" for line in lines).encode()


def parse_cache_info(data: bytes, shown: str) -> CacheInfo:
    """The nix-cache-info in `data`; FormatError, naming `shown` and the field, when it is none, or the cache is of a
    store other than /nix/store. Spaces, empty lines and a missing last newline are forgiven: people write this file.
    """
    if len(data) > MAX_CACHE_INFO_SIZE:
        raise FormatError(f"{shown}: {len(data)} bytes; a nix-cache-info has at most {MAX_CACHE_INFO_SIZE}")
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode("ascii", errors="surrogateescape").split("\n"), 1):
        key, colon, text = line.partition(":")
        if line.strip() and not colon:
            raise FormatError(f"{shown}: line {number} is not of the form 'Key: value'")
        if key in found:
            raise FormatError(f"{shown}: line {number}: {key} stands there twice")
        if key in ("StoreDir", "WantMassQuery", "Priority"):
            found[key] = text.strip()
    store_dir = found.get("StoreDir", STORE_DIR)
    if store_dir != STORE_DIR:
        raise FormatError(f"{shown}: StoreDir: the cache is of {store_dir[:200]!r}, not of {STORE_DIR}")
    priority = found.get("Priority")
    if priority is not None and _PRIORITY.fullmatch(priority) is None:
        raise FormatError(f"{shown}: Priority: {priority[:80]!r} is no number")
    return CacheInfo(store_dir, found.get("WantMassQuery") == "1", None if priority is None else int(priority))
