"""Orig tarballs of Debian source packages, and packages (debs.py), fetched by apt without touching the system's apt.

apt is run with a configuration of its own, made from what `apt-config dump` says (proxies, certificates and keys
count): its lists, caches and sources lie in our cache directory, no hook of the system runs, and no right is needed.
The private sources are the system's own with `deb` turned into `deb-src` (for packages: only `deb`), from sources.list
and sources.list.d, in both formats. One tarball is downloaded, checked by apt against the signed index and by us
against the pinned hash, and kept in the cache by that hash.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import StoreError
from reconciler.core.fs import FileLock
from reconciler.packages.downloads import cache_directory, is_kept, keep, run
from reconciler.packages.specs import DebianSpec

DEADLINE = 900.0  # seconds for one run of apt
_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) ")
_SYSTEM_KEYS = ("APT::Update::", "APT::Periodic", "DPkg::", "Dir::State", "Dir::Cache", "Dir::Log", "Dir::Etc::source")
_ONE_LINE = re.compile(r"^\s*deb(?:-src)?\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>\S.*)$")
_FIELD = re.compile(r"^(?P<name>[A-Za-z0-9-]+):(?P<value>.*)$")


def fetch(spec: DebianSpec) -> Path:
    """The tarball, from the cache or from Debian; StoreError when it cannot be had, BuildError for a wrong hash."""
    cache = cache_directory()
    kept = cache / "sources" / f"{spec.sha256.base16}-{spec.file}"
    if is_kept(kept, spec.sha256):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(cache / "apt.lock")):
        apt = Apt.prepare(cache / "apt")
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetch-") as directory:
            what = f"{spec.file} of Debian's source package {spec.package}"
            keep(_download(apt, spec, Path(directory)), kept, spec.sha256, what)
    return kept


def _download(apt: Apt, spec: DebianSpec, directory: Path) -> Path:
    seen = apt.tarballs(spec.package)
    if spec.file not in seen:
        apt.update()
        seen = apt.tarballs(spec.package)
    if spec.file not in seen:
        there = ", ".join(dict.fromkeys(seen)) or "no source package of that name"
        raise StoreError(
            f"Debian's archive has no {spec.file} of {spec.package} now; it has {there}",
            hint="the archive keeps only current versions: use the version it has, or a `url` of snapshot.debian.org",
        )
    return _first(apt, spec, seen[spec.file], directory)


def _first(apt: Apt, spec: DebianSpec, versions: Sequence[str], directory: Path) -> Path:
    """The tarball from the first archive that has it: one for updates lists it, and may leave it to the main one."""
    for version in versions:
        try:
            apt.run("source", "--download-only", "--tar-only", "--only-source", version, cwd=directory)
        except StoreError:
            if version == versions[-1]:
                raise
        else:
            break
    return directory / spec.file


@dataclass(frozen=True)
class Apt:
    """apt with everything of its own below `directory`; for packages of `architecture`, else for source packages."""

    directory: Path
    architecture: str = ""

    @classmethod
    def prepare(cls, directory: Path, architecture: str = "") -> Apt:
        """Write the private configuration and sources; StoreError where there is no apt."""
        if shutil.which("apt-get") is None or shutil.which("apt-config") is None:
            what = "a pinned toolchain" if architecture else "`debsrc`"
            raise StoreError(f"{what} needs apt, which this machine does not have", hint="use a `url` and its sha256")
        apt = cls(directory, architecture)
        for name in ("lists/partial", "cache/archives/partial", "state", "sources"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        system = _command(["apt-config", "dump"], {}, None)
        (directory / "apt.conf").write_text(apt.configuration(system))
        one_line, stanzas = source_entries(*_system_sources(system), "deb" if architecture else "deb-src")
        (directory / "sources" / "source.list").write_text(one_line)
        (directory / "sources" / "source.sources").write_text(stanzas)
        return apt

    def configuration(self, system: str) -> str:
        """The private apt.conf, from the text of `apt-config dump`."""
        kept = [line for line in system.splitlines() if not line.startswith(_SYSTEM_KEYS)]
        own = {
            "Dir::State": "state",
            "Dir::State::lists": "lists",
            "Dir::Cache": "cache",
            "Dir::Cache::archives": "cache/archives",
            "Dir::Etc::sourceparts": "sources",
        }
        lines = [f'{key} "{self.directory / value}/";' for key, value in own.items()]
        lines += [f'{key} "/dev/null";' for key in ("Dir::Etc::sourcelist", "Dir::Etc::main", "Dir::State::status")]
        lines += ['Dir::Etc::parts "/dev/null/";', 'Acquire::Languages "none";', 'APT::Get::Assume-Yes "true";']
        if self.architecture:
            kept = [line for line in kept if not line.startswith("APT::Architecture")]
            lines += [f'APT::Architecture "{self.architecture}";', f'APT::Architectures {{ "{self.architecture}"; }};']
        return "\n".join([*kept, *lines, ""])

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        return _command(["apt-get", *arguments], {"APT_CONFIG": str(self.directory / "apt.conf")}, cwd)

    def update(self) -> None:
        """Fetch the indexes. One that fails is not an error yet: another may have what is wanted."""
        self.run("update", "-q")

    def tarballs(self, package: str) -> dict[str, list[str]]:
        """Orig tarballs that the indexes know, each with every `package=version` that has it; empty for none."""
        found: dict[str, list[str]] = {}
        with contextlib.suppress(StoreError):
            for file, version in _tarballs(self.ask("showsrc", "--only-source", package)):
                if version not in found.setdefault(file, []):
                    found[file].append(version)
        return found

    def ask(self, *arguments: str) -> str:
        """What `apt-cache` answers."""
        return _command(["apt-cache", *arguments], {"APT_CONFIG": str(self.directory / "apt.conf")}, None)


def _tarballs(shown: str) -> Iterator[tuple[str, str]]:
    """(file, package=version) of every stanza that `apt-cache showsrc` shows."""
    for stanza in shown.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version):\s*(\S+)", stanza, re.MULTILINE))
        for file in re.findall(r"^ [0-9a-f]{64} \d+ (\S+\.orig\.tar\.\S+)$", stanza, re.MULTILINE):
            if "Package" in fields and "Version" in fields and not file.endswith(".asc"):
                yield file, f"{fields['Package']}={fields['Version']}"


def _command(command: Sequence[str], environment: dict[str, str], cwd: Path | None) -> str:
    done = run(command, DEADLINE, {**os.environ, **environment}, cwd)
    if done.status != 0:
        raise StoreError(f"`{' '.join(command)}` failed:\n{done.last_lines(5)}")
    return done.out.decode(errors="replace")


# --- the system's own sources -----------------------------------------------------------------------------------------


def _system_sources(configuration: str) -> tuple[list[str], list[str]]:
    """The texts of the system's .list and .sources files."""
    settings = dict(re.findall(r'^([A-Za-z:]+) "([^"]*)";$', configuration, re.MULTILINE))
    etc = Path(settings.get("Dir", "/") or "/") / settings.get("Dir::Etc", "etc/apt")
    main = etc / settings.get("Dir::Etc::sourcelist", "sources.list")
    parts = etc / settings.get("Dir::Etc::sourceparts", "sources.list.d")
    files = [main, *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    texts: dict[str, list[str]] = {".list": [], ".sources": []}
    for file in files:
        if file.suffix in texts and file.is_file() and os.access(file, os.R_OK):
            texts[file.suffix].append(file.read_text(errors="surrogateescape"))
    return texts[".list"], texts[".sources"]


def source_entries(lists: Sequence[str], stanza_files: Sequence[str], kind: str = "deb-src") -> tuple[str, str]:
    """The same archives as sources of one kind: the texts of a .list and of a .sources file."""
    lines = dict.fromkeys(entry for text in lists for line in text.splitlines() for entry in _one_line(line, kind))
    stanzas = dict.fromkeys(
        converted
        for text in stanza_files
        for stanza in re.split(r"\n[ \t]*\n", text)
        for converted in _stanza(stanza, kind)
    )
    return "".join(f"{line}\n" for line in lines), "\n".join(stanzas)


def _one_line(line: str, kind: str) -> Iterator[str]:
    match = _ONE_LINE.match(line.partition("#")[0])
    if match is None:
        return
    options = [option for option in (match["options"] or "").split() if not option.startswith("arch")]
    yield " ".join([kind, *(["[", *options, "]"] if options else []), match["rest"].strip()])


def _stanza(text: str, kind: str) -> Iterator[str]:
    """A deb822 stanza with `Types:` of that kind; none when it is disabled or names no types."""
    lines = [line for line in text.splitlines() if not line.startswith("#") and line.strip()]
    fields = {match["name"].lower(): match["value"].strip().lower() for line in lines if (match := _FIELD.match(line))}
    if "types" not in fields or fields.get("enabled") in ("no", "false", "0", "off", "without", "disable"):
        return
    dropped = False
    kept = []
    for line in lines:
        match = _FIELD.match(line)
        if match is not None:
            dropped = match["name"].lower() in ("types", "architectures", "enabled")
        if not dropped:
            kept.append(line)
    yield "\n".join([f"Types: {kind}", *kept, ""])
