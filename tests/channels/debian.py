"""Real Debian packages: chosen with what they depend on, fetched by apt, and put in an order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.fs import FileLock
from reconciler.core.nix.hashes import Hash
from reconciler.packages import deb_archive, debs
from reconciler.packages.debian import Apt
from reconciler.packages.downloads import cache_directory
from reconciler.packages.toolchain import Deb
from reconciler.packages.toolchain_pins import ARCHITECTURES
from tests.channels.wanted import CALLED, LEFT_OUT, LIBC, SHELL, TOGETHER

_INSTALLED = re.compile(r"^Inst (\S+) \((\S+) .*\[([a-z0-9]+)\]\)", re.MULTILINE)
_FIELD = re.compile(r"^(Package|Version|SHA256|Pre-Depends|Depends): *(.+)$", re.MULTILINE)
_DOC_FILES = 6  # a package with more of them has an output `doc`


@dataclass(frozen=True)
class Package:
    """A Debian package, its file, and the names of those that it depends on."""

    deb: Deb
    file: Path
    depends: tuple[str, ...]

    @property
    def label(self) -> str:
        """What the file is called in a store, whose names have no `~`."""
        return f"{self.deb.package}_{self.deb.architecture}.deb"


@dataclass(frozen=True)
class Spec:
    """One derivation, as default.nix reads it. `depends`, `libc` and `shell` are keys of earlier ones."""

    key: str
    name: str
    system: str
    outputs: tuple[str, ...]
    main: tuple[str, ...]
    development: tuple[str, ...]
    depends: tuple[str, ...]
    libc: str | None
    shell: str | None


def fetch(system: str, turns: Iterable[str]) -> dict[str, Package]:
    """What is wanted in each turn, and all that it depends on, by name."""
    with FileLock(_lock()):
        apt = debs.prepared(ARCHITECTURES[system])
        apt.update()
        chosen: dict[str, tuple[str, str]] = {}
        for turn in turns:
            said = apt.run("install", "--simulate", "--no-install-recommends", "--quiet", *turn.split())
            for package, version, architecture in _INSTALLED.findall(said):
                chosen[package.partition(":")[0]] = version, architecture
        chosen = {name: chosen[name] for name in sorted(chosen.keys() - LEFT_OUT)}
        known = dict(_described(apt, chosen))
    files = debs.fetch([deb for deb, _ in known.values()])
    return {
        name: Package(deb, file, tuple(depends))
        for (name, (deb, depends)), file in zip(known.items(), files, strict=True)
    }


def _lock() -> str:
    cache_directory().mkdir(parents=True, exist_ok=True)
    return str(cache_directory() / "apt.lock")


def _described(apt: Apt, chosen: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, tuple[Deb, list[str]]]]:
    shown = apt.ask("show", *(f"{name}={version}" for name, (version, _) in chosen.items()))
    for stanza in shown.split("\n\n"):
        fields = dict(_FIELD.findall(stanza))
        name = fields.get("Package", "")
        version, architecture = chosen.get(name, ("", ""))
        if version and version == fields["Version"]:
            deb = Deb(name, version, architecture, Hash.parse(fields["SHA256"], "sha256"))
            wanted = ", ".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends"))))
            yield name, (deb, list(_present(wanted, chosen)))


def _present(depends: str, chosen: Mapping[str, object]) -> Iterator[str]:
    """Of each dependency the first alternative that is there."""
    for each in filter(None, depends.split(", ")):
        names = (re.split(r"[ :(]", other.strip())[0] for other in each.split("|"))
        yield from [name for name in names if name in chosen][:1]


# --- as derivations ---------------------------------------------------------------------------------------------------


def specs(system: str, packages: Mapping[str, Package]) -> list[Spec]:
    """The derivations of one system, dependencies first; a dependency that would close a circle is dropped. LIBC and
    SHELL have to be among the packages."""
    members = _members(packages)
    owner = {name: key for key, names in members.items() for name in names}
    wanted = {
        key: sorted({owner[other] for name in names if not _is_extra(name, names) for other in packages[name].depends})
        for key, names in members.items()
    }
    wanted[LIBC] = []  # Debian's depends on libgcc, which depends on it
    ordered = _without_circles(wanted)
    below = _closures(ordered)
    with ThreadPoolExecutor() as pool:
        paths = dict(zip(packages, pool.map(_paths, (each.file for each in packages.values())), strict=True))
    made = []
    for key, depends in ordered.items():
        extra = [name for name in members[key] if _is_extra(name, members[key])]
        main = [name for name in members[key] if name not in extra]
        outputs = _outputs(key, frozenset[str]().union(*(paths[name] for name in main)), bool(extra))
        made.append(
            Spec(
                key=key,
                name=f"{_called(key)}-{_upstream(packages[main[0]].deb.version)}",
                system=system,
                outputs=tuple(outputs),
                main=tuple(packages[name].label for name in main),
                development=tuple(packages[name].label for name in extra),
                depends=depends,
                libc=LIBC if LIBC in below[key] - {key} else None,
                shell=SHELL if key not in below[SHELL] and LIBC in below[key] else None,
            )
        )
    return made


def _called(key: str) -> str:
    """A name whose version a reader finds: what follows the first dash before a digit."""
    return CALLED.get(key) or re.sub(r"-(?=[0-9])", "_", key)


def _members(packages: Mapping[str, Package]) -> dict[str, list[str]]:
    """The Debian packages of each derivation, by its key: most are alone; `-dev` goes with its library."""
    together = {name: key for key, names in TOGETHER.items() for name in names}
    members: dict[str, list[str]] = {}
    for name, package in packages.items():
        members.setdefault(together.get(name) or _library_of(name, package, packages) or name, []).append(name)
    return members


def _is_extra(name: str, names: Sequence[str]) -> bool:
    """Whether a package of a derivation is the one that becomes its output `dev`."""
    return len(names) > 1 and name.endswith("-dev")


def _library_of(name: str, package: Package, packages: Mapping[str, Package]) -> str | None:
    if not name.endswith("-dev"):
        return None
    stem = name.removesuffix("-dev")
    same = [each for each in package.depends if packages[each].deb.version == package.deb.version]
    return next(
        (each for each in same if not each.endswith("-dev") and (each.startswith(stem) or len(same) == 1)), None
    )


def _without_circles(wanted: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    done: dict[str, tuple[str, ...]] = {}
    open_now: set[str] = set()

    def visit(key: str) -> None:
        open_now.add(key)
        for other in wanted[key]:
            if other not in done and other not in open_now:
                visit(other)
        done[key] = tuple(other for other in wanted[key] if other in done)
        open_now.remove(key)

    for key in (LIBC, SHELL, *wanted):  # which every other one may refer to
        if key not in done:
            visit(key)
    return done


def _closures(ordered: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    below: dict[str, frozenset[str]] = {}
    for key, depends in ordered.items():
        below[key] = frozenset({key}).union(*(below[other] for other in depends))
    return below


def _outputs(key: str, paths: Iterable[str], development: bool) -> Iterator[str]:
    yield "out"
    programs = any(path.startswith(("bin/", "sbin/")) for path in paths)
    libraries = any(re.search(r"^lib/.*\.so(\.|$)", path) for path in paths)
    if programs and libraries and key != LIBC and key not in TOGETHER:
        yield "bin"
    if development:
        yield "dev"
    if any(path.startswith("share/man/") for path in paths):
        yield "man"
    if sum(path.startswith("share/doc/") for path in paths) >= _DOC_FILES:
        yield "doc"


def _upstream(version: str) -> str:
    """`1:2.39.5-0+deb12u2` is 2.39.5."""
    whole = version.partition(":")[2] or version
    return (whole.rpartition("-")[0] or whole).replace("~", "-")


def _paths(file: Path) -> frozenset[str]:
    """What is in a package, /usr folded into /."""
    return frozenset("/".join(each.parts).removeprefix("usr/") for each in deb_archive.read(file))
