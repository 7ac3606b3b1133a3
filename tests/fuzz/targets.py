"""What is fuzzed: for each parser, what must hold for any bytes whatever.

A target reads the bytes and either raises one of its `refusals` or comes to a value whose round trip it asserts. Any
other exception is a finding; so is an input that takes longer or more memory than engine.py allows.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from reconciler.core.agent import created, frames, history, lock, messages, recovery
from reconciler.core.agent.frames import FrameDecoder, Kind
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import Message
from reconciler.core.build import elf
from reconciler.core.errors import Faults, FormatError, RefusedError, StoreError, UsageError
from reconciler.core.nix import derivation, export, listing, nar, narinfo, registration
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.signature import PublicKey, Signature
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile import manifest
from reconciler.core.store import daemon_client
from reconciler.core.store.daemon_client import DaemonClient
from reconciler.core.store.daemon_line import Line
from reconciler.core.store.path_info import PathInfo
from reconciler.fleet.journal import Journal
from reconciler.inventory import inventory, yaml
from reconciler.lab import state as lab_state
from reconciler.packages import deb_archive
from reconciler.packages import lock as lock_file


@dataclass(frozen=True)
class Target:
    """One parser. `words` are pieces of its format, for mutations; `largest`: the longest input in bytes."""

    name: str
    run: Callable[[bytes], None]
    words: tuple[bytes, ...] = ()
    refusals: tuple[type[Exception], ...] = (FormatError, StoreError)
    largest: int = 4096


TARGETS: dict[str, Target] = {}


def target(
    *words: bytes, refusals: tuple[type[Exception], ...] = (FormatError, StoreError), largest: int = 4096
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register a function as the target of its own name."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = run.__name__.strip("_")
        TARGETS[name] = Target(name, run, words, refusals, largest)
        return run

    return register


# --- Nix's formats ----------------------------------------------------------------------------------------------------

_PATH = b"/nix/store/mrgq7g2dvmb3v057n7d988vrxps151rj-tree"


def _string(word: bytes) -> bytes:
    return len(word).to_bytes(8, "little") + word + bytes(-len(word) & 7)


_NAR_WORDS = tuple(
    _string(word)
    for word in b"nix-archive-1 ( ) type regular symlink directory contents executable target entry name node".split()
)


@target(*_NAR_WORDS, _string(b""), _string(b".."))
def _nar(data: bytes) -> None:
    tree = nar.decode(data)
    assert nar.encode(tree) == data
    try:
        json.loads(listing.listing(io.BytesIO(data)))
    except FormatError as error:
        if "is not UTF-8" not in error.message:
            raise AssertionError("an archive that is right has no listing") from error


@target(*_NAR_WORDS, export.PATH, export.END, _string(_PATH), export.TRAILER.to_bytes(8, "little"))
def _export(data: bytes) -> None:
    def read(stream: bytes) -> Iterator[bytes]:
        exports = export.Exports(io.BytesIO(stream))
        while exports.more():
            archive: list[bytes] = []
            exports.archive(archive.append)
            end = exports.trailer()
            yield export.PATH + b"".join(archive) + export.trailer(end.path, end.references, end.deriver)
        yield export.END

    again = b"".join(read(data))
    assert b"".join(read(again)) == again


_NARINFO_WORDS = tuple(
    b"%s: " % key
    for key in b"StorePath URL Compression FileHash FileSize NarHash NarSize References Deriver Sig CA".split()
)


@target(*_NARINFO_WORDS, _PATH, _PATH[11:], b"nar/x.nar.xz", b"sha256:", b"unknown-deriver", b"..", b"%2e", b"\n")
def _narinfo(data: bytes) -> None:
    info = narinfo.parse(data, "fuzz")
    assert narinfo.parse(info.serialise(), "fuzz", info.path.hash_part) == info
    assert ".." not in info.url.partition("?")[0].split("/")
    assert info.serialise().isascii()


@target(b"StoreDir: /nix/store\n", b"WantMassQuery: 1\n", b"Priority: ", b"-", b"\r\n")
def _cacheinfo(data: bytes) -> None:
    info = narinfo.parse_cache_info(data, "fuzz")
    assert narinfo.parse_cache_info(info.serialise(), "fuzz") == info


def _unknown(path: StorePath) -> Derivation:
    raise StoreError(f"{path} is not valid")


@target(b"Derive(", b'[("out","","","")]', b'"r:sha256"', b'("', b'","', b'")', b"],[", b"\\", b'"%s.drv"' % _PATH)
def _derivation(data: bytes) -> None:
    drv = Derivation.parse(data)
    assert drv.serialise() == data
    made = derivation.with_outputs(drv, "fuzz", _unknown)
    assert derivation.with_outputs(made, "fuzz", _unknown) == made
    assert Derivation.parse(made.serialise()).output_paths() == made.output_paths()
    assert made.path("fuzz").is_derivation


@target(b"Derive(", b'[("out","","","")]', b'"r:sha256"', b'("', b'","', b'")', b"],[", b"\\", b'"%s.drv"' % _PATH)
def _modulo(data: bytes) -> None:
    """A derivation that is an input of another: its paths as they stand, whatever they are."""
    drv = Derivation.parse(data)
    path = StorePath.parse(f"{_PATH.decode()}.drv")
    known = {path: drv}
    assert len(derivation.hash_modulo(path, lambda wanted: known.get(wanted) or _unknown(wanted))) == 64


@target(_PATH + b"\n", b"\n\n0\n", b"1\n", b"0" * 64 + b"\n")
def _registration(data: bytes) -> None:
    lines = data.split(b"\n", 2)
    hashes = len(lines) > 1 and len(lines[1]) == 64
    found = list(registration.parse([data[:7], data[7:]], "fuzz", hashes))
    text = b"".join(one.serialise() for one in found)
    assert list(registration.parse([text], "fuzz", hashes)) == found


def _base_name(text: str) -> str:
    return StorePath.from_base_name(text).base_name


@target(b"sha256:", b"sha1-", b"md5:", b"sha512:", b"=", b"/nix/store/", b"-", b":", b".drv")
def _spellings(data: bytes) -> None:
    """Hashes, store paths, keys and signatures: one after the other, each may refuse."""
    text = data.decode("utf-8", "surrogateescape")
    refused = 0
    try:
        found = Hash.parse(text)
        assert {Hash.parse(spelled) for spelled in (found.nix, found.sri, found.hex_prefixed)} == {found}
    except FormatError:
        refused += 1
    reads: tuple[Callable[[str], object], ...] = (StorePath.parse, Signature.parse, PublicKey.parse, _base_name)
    for read in reads:
        try:
            value = read(text)
        except FormatError:
            refused += 1
            continue
        assert read(str(value)) == value
    if refused == 1 + len(reads):
        raise FormatError("none of them")


@target(
    b'[ { meta = { }; name = "a"; outPath = "', b"/nix/store/", b'outputs = [ "out" ]; ', b"{", b"}", b"[", b"]", b";"
)
def _manifest(data: bytes) -> None:
    """manifest.nix or manifest.json of a profile that its user may write."""
    found = manifest.nix_profile_elements(data) if data.lstrip()[:1] == b"{" else manifest.nix_env_elements(data)
    assert all(isinstance(held.path, str) and isinstance(held.priority, int) for held in found)


# --- the agent's link -------------------------------------------------------------------------------------------------

_KINDS = tuple(bytes([kind]) + bytes(12) for kind in Kind)


@target(*_KINDS, b'{"a":1}', b"\xff\xff\xff\xff", frames.encode(Kind.EVENT, 1, {"x": "y"}))
def _frames(data: bytes) -> None:
    """The same frames, however the stream is cut; and written as read."""
    whole = FrameDecoder().feed(data)
    decoder, step = FrameDecoder(), 1 + (data[-1] if data else 0)
    cut = [frame for at in range(0, len(data), step) for frame in decoder.feed(data[at : at + step])]
    assert cut == whole
    for frame in whole:
        if frame.kind is not Kind.DATA:
            again = frames.encode(frame.kind, frame.number, frame.body or None)
            assert FrameDecoder().feed(again) == [frame]


def _message_classes() -> list[type[Message]]:
    found = [cls for cls in vars(messages).values() if isinstance(cls, type) and issubclass(cls, Message)]
    return sorted((cls for cls in found if cls is not Message), key=lambda cls: cls.__name__)


CLASSES = _message_classes()


@target(b'{"path":"', b'"profile":"system"', b"null", b"[", b"]", b"{}", b"1e999", b"-1", b"true", b'"', b",", b":")
def _messages(data: bytes) -> None:
    """`<class's name> <its JSON>`: what a host answers, read as the reply that was expected."""
    name, _, text = data.partition(b" ")
    classes = [cls for cls in CLASSES if cls.__name__.encode() == name] or CLASSES[:: len(CLASSES) // 4]
    body = frames.parse_object(text)
    refused = None
    for cls in classes:
        try:
            message = cls.from_json(body)
        except FormatError as error:
            refused = error
            continue
        told = json.dumps(message.to_json())
        assert json.dumps(cls.from_json(json.loads(told)).to_json()) == told
    if refused is not None:
        raise refused


# --- files of ours ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[str]:
    """A path with these contents that touches no disk."""
    fd = os.memfd_create("fuzz")
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


_ENTRY_WORDS = (
    b"\n",
    b'{"deployment":"',
    b'"before":null',
    b'"when":',
    b"1e400",
    b"[" * 40,
    b'"after":{"number":1,"path":"',
)


@target(b"reconciler-lock 1\n", b'{"deployment":"d","who":"w","pid":1,"since":1.0}', *_ENTRY_WORDS)
def _lock(data: bytes) -> None:
    """Who holds a host's lock: anything that is not right is nobody."""
    with _file(data) as path:
        owner = lock.read_owner(path)
    if owner is None:
        raise FormatError("nobody")
    json.dumps(owner.to_json())


@target(b"reconciler-history 1\n", b"reconciler-history 2\n", *_ENTRY_WORDS, largest=8192)
def _history(data: bytes) -> None:
    with _file(data) as path:
        entries = history.read(path)
    lines = [json.dumps(entry.to_json()) for entry in entries]
    with _file("\n".join(["reconciler-history 1", *lines, ""]).encode()) as path:
        assert [json.dumps(entry.to_json()) for entry in history.read(path)] == lines
    history.undone(entries, "system")


@target(b"reconciler-switching 1\n", b"reconciler-switching 2\n", *_ENTRY_WORDS)
def _switching(data: bytes) -> None:
    with _file(data) as path:
        for entry in recovery._intended(cast(Host, SimpleNamespace(switching=path))):
            json.dumps(entry.to_json())


@target(b"reconciler-created 1\n", b"/nix\n", b"\n", b"reconciler-created 2\n")
def _created(data: bytes) -> None:
    with _file(data) as path:
        made = created.read(cast(Host, SimpleNamespace(created=path, state="/nix/var/reconciler")))
    assert all(one.startswith("/") for one in made)


_TALK = (daemon_client.NEXT, daemon_client.ERROR, daemon_client.LAST, daemon_client.START_ACTIVITY)


@target(*(word.to_bytes(8, "little") for word in (0, 1, 105, *_TALK)), _string(_PATH), _string(b"Error"))
def _daemon(data: bytes) -> None:
    """What Nix's daemon says: to a hello, to a question about one path, and while it takes another."""
    ours, theirs = socket.socketpair()
    with theirs, contextlib.closing(Line(ours)) as line:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        client, path = DaemonClient(line), StorePath.parse(_PATH.decode())
        assert client.valid([path]) <= {path}
        found = client.infos([path])
        assert all(info.path == path for info in found.values())
        client.add(PathInfo(path, Hash.sha256(b"x"), 1, ()), [b"x"])


@target(b"reconciler-lab-host 1\n", b'{"pid":1,"started":1,"boot":"b","port":1,"isolation":"i"}', b"[" * 40)
def _lab(data: bytes) -> None:
    with _file(data) as path:
        json.dumps(lab_state.read(Path(path), "reconciler-lab-host"))


@target(b'{"format":1,"hosts":[]', b'"format":2', b"[" * 40, b'"id":"', b"null", largest=8192)
def _journal(data: bytes) -> None:
    with _file(data) as path:
        Journal(Path("/nonexistent"), "/nonexistent")._read(Path(path))


@target(
    b"format: 1\n", b"locked:\n", b"  hello:\n", b"    x86_64-linux: {", b"path: ", _PATH, b", ", b"&a", b"*a",
    refusals=(UsageError, FormatError),
)  # fmt: skip
def _lockfile(data: bytes) -> None:
    """reconciler.lock, which people merge by hand."""
    with _file(data) as path:
        read = lock_file.load(Path(path), "fuzz")
    with _file(read.serialise().encode()) as path:
        assert lock_file.load(Path(path), "fuzz") == read


_YAML_WORDS = (
    b": ", b"- ", b"\n  ", b"&a ", b"*a", b"<<: ", b"!!python/object:os.system", b"!!int ", b"? ", b"|\n", b"'", b'"',
    b"{", b"}", b"[", b"]", b"---\n", b"...\n", b"%YAML 1.1\n", b"\t", b"\xef\xbb\xbf", b"08", b"1e3", b"yes", b"0x1F",
    b"1:30", b"\xc2\x85",
)  # fmt: skip


@target(b"\x7fELF\x02\x01\x01", b"\x01\0\0\0", b"\x02\0\0\0", b"\x03\0\0\0", b"$ORIGIN/../lib\0", b"\xff" * 8)
def _elf(data: bytes) -> None:
    """What a build left behind, read to see how it is loaded."""
    with _file(data) as path:
        fd = os.open(path, os.O_RDONLY)
        try:
            elf.read(fd)
        finally:
            os.close(fd)


@target(
    b"!<arch>\n", b"debian-binary   ", b"data.tar        ", b"data.tar.gz     ", b"`\n", b"ustar\x0000", b"../",
    b"/etc/", b"0000755\0", b"1", b"2", b"3", largest=8192,
)  # fmt: skip
def _deb(data: bytes) -> None:
    """A Debian package of a toolchain."""
    with _file(data) as path:
        for member in deb_archive.read(Path(path)):
            assert member.parts
            assert not {"", ".", ".."} & set(member.parts)
            assert not any("/" in part or "\0" in part for part in member.parts)


@target(*_YAML_WORDS, refusals=(UsageError,))
def _yaml(data: bytes) -> None:
    node = yaml.parse(data, "fuzz")
    yaml.plain(node)


_INVENTORY_WORDS = (
    b"all:\n  hosts:\n", b"  children:\n", b"vars:\n", b"desired:\n", b"packages: [", b"users:\n", b"files:\n",
    b"drop:\n", b"web[01:20]", b"ansible_host: ", b"ansible_port: 22", b"{{ ", b" }}", b"profiles:\n", b"keep: {",
    b"units:\n", b"mode: 0644",
)  # fmt: skip


@target(*_YAML_WORDS, *_INVENTORY_WORDS, refusals=(UsageError, Faults, FormatError, RefusedError), largest=2048)
def _inventory(data: bytes) -> None:
    """A whole inventory of one file, down to every host's desired state and connection."""
    with _file(data) as path:
        found = inventory.load(Path(path))
        for host in list(found.hosts)[:20]:
            found.desired(host)
            found.connection(host)


@dataclass
class Outcome:
    """What a target said of an input; `kind` is the same for inputs that fare alike."""

    kind: str
    finding: Exception | None = field(default=None)


def execute(one: Target, data: bytes) -> Outcome:
    """Run a target; a finding is whatever it raised that is no refusal."""
    try:
        one.run(data)
    except one.refusals as error:
        return Outcome(_shape(f"{type(error).__name__}: {error}"))
    except Exception as error:  # whatever it is, it is a finding
        return Outcome("finding", error)
    return Outcome("read")


def _shape(message: str) -> str:
    """A message without what the input put into it: quoted text and numbers."""
    kept, quote = [], ""
    for character in message[:400]:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif not character.isdigit():
            kept.append(character)
    return "".join(kept)[:80]
