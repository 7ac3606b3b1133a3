"""What a lab keeps on disk.

    DIRECTORY/lab                 the mark of a lab's directory: `reconciler-lab 1`, then JSON {"users": [...]}
    DIRECTORY/ssh_config, known_hosts, key, key.pub
    DIRECTORY/hosts/NAME/state    `reconciler-lab-host 1`, then JSON: the fields of HostState
    DIRECTORY/hosts/NAME/host_key, host_key.pub, log, disk/

Each file opens with its format and a number; a newer number is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reconciler.core.errors import FormatError
from reconciler.core.fs import replace_file

_VERSION = 1


@dataclass(frozen=True)
class HostState:
    """A host that was started: process 1 as the machine sees it, and enough to tell it from a later process.

    `pid` is 0 for a host that was stopped; `port` is kept, for the next start.
    """

    pid: int
    started: int  # field 22 of /proc/PID/stat: clock ticks after the machine's start
    boot: str
    port: int
    isolation: str


def write(path: Path, kind: str, content: dict[str, Any], mode: int = 0o600) -> None:
    """Replace a file of ours."""
    text = f"{kind} {_VERSION}\n{json.dumps(content, indent=1, sort_keys=True)}\n"
    replace_file(str(path), text.encode(), mode=mode, durable=False)


def read(path: Path, kind: str) -> dict[str, Any]:
    """The content of a file of ours; FormatError when it is another's or newer than this program."""
    head, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    if head != f"{kind} {_VERSION}":
        raise FormatError(
            f"{path}: opens with {head[:60]!r}, this program reads '{kind} {_VERSION}'",
            hint="end that lab with the program that made it, or remove the directory",
        )
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON after its first line: {error}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: not a JSON object after its first line")
    return content


def write_host(directory: Path, state: HostState) -> None:
    write(directory / "state", "reconciler-lab-host", asdict(state))


def read_host(directory: Path) -> HostState | None:
    """None for a host that never started."""
    if not (directory / "state").exists():
        return None
    content = read(directory / "state", "reconciler-lab-host")
    try:
        return HostState(**content)
    except TypeError as error:
        raise FormatError(f"{directory / 'state'}: {error}") from error


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When a process started; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold anything; field 3 follows the last one.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def is_running(state: HostState | None) -> bool:
    return state is not None and state.pid > 0 and state.boot == boot_id() and start_ticks(state.pid) == state.started
