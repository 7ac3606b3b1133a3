"""What a wheel says of itself (PEP 427; METADATA: the packaging specification "core metadata"), for a first recipe."""

from __future__ import annotations

import email
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reconciler.core.errors import UsageError

_MAX_METADATA = 4 * 1024 * 1024  # bytes; a project's whole description is in it
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)[^;]*(;.*)?")


@dataclass(frozen=True)
class Wheel:
    """summary     what it is, in a line; may be empty
    needs       projects that it cannot be without, as packages are named: in lower case, with dashes
    perhaps     those that some Python, system or version wants
    scripts     its members that are programs
    has_modules whether it holds any Python
    """

    version: str
    summary: str
    needs: tuple[str, ...]
    perhaps: tuple[str, ...]
    scripts: tuple[str, ...]
    has_modules: bool


def read(path: Path) -> Wheel:
    """UsageError when the file is no wheel, or one that cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [PurePosixPath(each.filename) for each in archive.infolist() if not each.is_dir()]
            metadata = next(each for each in members if each.match("*.dist-info/METADATA"))
            with archive.open(str(metadata)) as file:
                text = file.read(_MAX_METADATA + 1)
    # Encrypted members and unknown ways of compression are the latter two.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, StopIteration, RuntimeError, NotImplementedError):
        raise UsageError(
            f"'{path}' is no wheel", "a wheel is a zip archive with NAME-VERSION.dist-info/METADATA"
        ) from None
    if len(text) > _MAX_METADATA:
        raise UsageError(f"'{path}': its METADATA has more than {_MAX_METADATA} bytes", "is it a wheel?")
    told = email.message_from_string(text.decode(errors="replace"))
    needs, perhaps = _requirements(told.get_all("Requires-Dist", []))
    return Wheel(
        version=str(told["Version"] or "1.0"),
        summary=" ".join(str(told["Summary"] or "").split()),
        needs=needs,
        perhaps=perhaps,
        scripts=tuple(str(each) for each in members if each.match("*.data/scripts/*")),
        has_modules=any(not each.parts[0].endswith((".dist-info", ".data")) for each in members),
    )


def _requirements(lines: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is needed always, and what under a condition; what only an extra wants is neither."""
    needs: list[str] = []
    perhaps: list[str] = []
    for line in lines:
        found = _REQUIREMENT.match(line)
        if found is None or "extra" in (found[2] or ""):
            continue
        (perhaps if found[2] else needs).append(re.sub(r"[-_.]+", "-", found[1]).lower())
    return tuple(dict.fromkeys(needs)), tuple(dict.fromkeys(perhaps))
