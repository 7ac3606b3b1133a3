"""What ~/.ssh/config says of a host: the files as one text (Include, -F, -o), and the answer as a value.

paramiko reads Host and Match blocks; it does not know Include, so files are put together here first. A Host block
inside an included file holds only where the block around the Include holds too: both become one Match line.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.core.errors import UsageError
from reconciler.inventory.desired import ConnectionSettings

USER_CONFIG = "~/.ssh/config"
SYSTEM_CONFIG = "/etc/ssh/ssh_config"
_DEPTH = 16
_LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*?)\s*$")
# What may stand in a host or user name: nothing that a ProxyCommand's shell would read as more than a word.
_NAME = re.compile(r"[A-Za-z0-9_.:%@\[\]\\+~-]+\Z")


@dataclass(frozen=True)
class Arguments:
    """`ansible_ssh_common_args`, as far as it is understood: -F FILE, -o KEY=VALUE, -J HOPS."""

    file: str | None = None
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, words: Iterable[str]) -> Arguments:
        file: str | None = None
        options: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            flag, value = word[:2], word[2:]
            if flag not in ("-F", "-o", "-J"):
                raise UsageError(
                    f"ssh argument '{word}' is not understood", "known are -F FILE, -o KEY=VALUE and -J HOST"
                )
            if not value:
                if not rest:
                    raise UsageError(f"ssh argument '{word}' needs a value")
                value = rest.pop(0)
            if flag == "-F":
                file = value
            elif flag == "-o":
                if not _LINE.match(value) or "\n" in value:
                    raise UsageError(f"ssh option '{value}' is not KEY=VALUE")
                options.append(value)
            else:
                options.append(f"ProxyJump={value}")
        return cls(file, tuple(options))


def check_name(name: str, what: str) -> str:
    """A host or user name that is fit to stand in a command line."""
    if not _NAME.match(name) or name.startswith("-"):
        raise UsageError(f"{name!r} is no {what} name")
    return name


def merged_text(arguments: Arguments, own_file: str | None = None) -> str:
    """All configuration as one text, in the order in which ssh asks it. UsageError for a -F file that is not there.

    `own_file` stands in for the user's and the system's files, as -F does.
    """
    lines: list[str] = []
    file = arguments.file or own_file
    if file is not None:
        path = os.path.expanduser(file)
        if path != "none":
            if not os.path.exists(path):
                raise UsageError(f"ssh configuration {file} is not there")
            _flatten(path, (), lines, 0, os.path.dirname(path) if own_file else os.path.expanduser("~/.ssh"))
        return _text(lines)
    _flatten(os.path.expanduser(USER_CONFIG), (), lines, 0, os.path.expanduser("~/.ssh"))
    lines.append("Host *")
    _flatten(SYSTEM_CONFIG, (), lines, 0, os.path.dirname(SYSTEM_CONFIG))
    return _text(lines)


def option_text(options: Iterable[tuple[str, str]]) -> str:
    """Options as a configuration that holds for every host."""
    return _text(["Host *", *(f"{key} {value}" for key, value in options)])


def split_option(option: str) -> tuple[str, str]:
    """KEY=VALUE or `KEY VALUE`."""
    match = _LINE.match(option)
    if match is None:
        raise UsageError(f"ssh option '{option}' is not KEY=VALUE")
    return match[1], match[2]


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _flatten(path: str, around: tuple[str, ...], lines: list[str], depth: int, base: str) -> None:
    """Append a file's lines. `around` are the Match criteria of the blocks that its Include stands in."""
    if depth > _DEPTH:
        raise UsageError(f"{path}: Include goes deeper than {_DEPTH} files")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    block: tuple[str, ...] = ()
    for line in text.splitlines():
        match = _LINE.match(line)
        key = match[1].lower() if match and not line.lstrip().startswith("#") else ""
        if match and key in ("host", "match"):
            block = _criteria(key, match[2], path)
            lines.append(_header((*around, *block)))
        elif match and key == "include":
            for included in _included(match[2], base, path):
                _flatten(included, (*around, *block), lines, depth + 1, base)
                # What the file opened ends with it.
                lines.append(_header((*around, *block)))
        elif key:
            lines.append(line)


def _criteria(key: str, value: str, path: str) -> tuple[str, ...]:
    """A block's condition as Match criteria; `all` as none."""
    if key == "match":
        return () if value.strip().lower() == "all" else (value,)
    try:
        patterns = shlex.split(value)
    except ValueError as error:
        raise UsageError(f"{path}: Host {value}: {error}") from error
    return () if patterns == ["*"] else (f"originalhost {shlex.quote(','.join(patterns))}",)


def _header(criteria: tuple[str, ...]) -> str:
    return "Match " + " ".join(criteria) if criteria else "Host *"


def _included(value: str, base: str, path: str) -> list[str]:
    try:
        names = shlex.split(value)
    except ValueError as error:
        raise UsageError(f"{path}: Include {value}: {error}") from error
    found: list[str] = []
    for name in names:
        pattern = os.path.join(base, os.path.expanduser(name))
        found += sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    return found


@dataclass(frozen=True)
class Hop:
    """One jump host as ProxyJump names it."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Hop:
        """[user@]host[:port], [user@][v6]:port, ssh://[user@]host[:port]."""
        spec = text.strip().removeprefix("ssh://").rstrip("/")
        user, at, place = spec.rpartition("@")
        match = re.fullmatch(
            r"\[(?P<six>[^\]]+)\](?::(?P<port6>\d+))?|(?P<host>[^:]+)(?::(?P<port>\d+))?|(?P<bare>.*:.*)", place
        )
        if not match or (at and not user):
            raise UsageError(f"'{text}' is no jump host")
        host = match["six"] or match["host"] or match["bare"]
        port = match["port6"] or match["port"]
        return cls(check_name(host, "host"), check_name(user, "user") if at else None, int(port) if port else None)


@dataclass(frozen=True)
class Target:
    """Where to dial and what to know before: the answer for one host.

    `jumps` are in the order in which they are passed. `proxy_command` is run by a shell.
    """

    host: str
    port: int
    user: str
    alias: str | None
    identities: tuple[str, ...]
    certificates: tuple[str, ...]
    identities_only: bool
    identity_agent: str | None
    known_hosts: tuple[str, ...]
    jumps: tuple[Hop, ...]
    proxy_command: str | None
    family: str

    @property
    def name(self) -> str:
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != 22 else "")


_DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_DEFAULT_USER_KNOWN = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
_DEFAULT_GLOBAL_KNOWN = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"


def read_target(found: Mapping[str, object], name: str, local_user: str) -> Target:
    """The value out of what paramiko's lookup of `name` found: lower-case keys, values as written."""

    def text(key: str, default: str = "") -> str:
        value = found.get(key)
        return value if isinstance(value, str) else default

    host = check_name(text("hostname", name), "host")
    user = check_name(text("user", local_user), "user")
    port = _port(text("port", "22"))
    tokens = {
        "%h": host,
        "%p": str(port),
        "%r": user,
        "%n": name,
        "%u": local_user,
        "%d": os.path.expanduser("~"),
        "%%": "%",
    }
    tokens["%k"] = text("hostkeyalias") or host

    def files(value: str) -> tuple[str, ...]:
        return tuple(_path(word, tokens) for word in _words(value) if word != "none")

    identities = found.get("identityfile")
    listed = [str(item) for item in identities] if isinstance(identities, list) else []
    jump, command = _proxies(found)
    return Target(
        host=host,
        port=port,
        user=user,
        alias=text("hostkeyalias") or None,
        identities=tuple(_path(item, tokens) for item in listed if item != "none")
        if listed
        else tuple(os.path.expanduser(item) for item in _DEFAULT_IDENTITIES),
        certificates=files(text("certificatefile")),
        identities_only=text("identitiesonly").lower() == "yes",
        identity_agent=text("identityagent") or None,
        known_hosts=files(text("userknownhostsfile", _DEFAULT_USER_KNOWN))
        + files(text("globalknownhostsfile", _DEFAULT_GLOBAL_KNOWN)),
        jumps=tuple(Hop.parse(hop) for hop in jump.split(",")) if jump else (),
        proxy_command=command,
        family=text("addressfamily", "any").lower(),
    )


def _proxies(found: Mapping[str, object]) -> tuple[str | None, str | None]:
    """ProxyJump or ProxyCommand, whichever was said first."""
    for key in found:
        value = found[key]
        if key in ("proxyjump", "proxycommand"):
            if not isinstance(value, str) or value.lower() == "none":
                return None, None
            return (value, None) if key == "proxyjump" else (None, value)
    return None, None


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise UsageError(f"'{text}' is no port")
    return int(text)


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise UsageError(f"ssh configuration: {value}: {error}") from error


def _path(text: str, tokens: Mapping[str, str]) -> str:
    expanded = re.sub(r"%.", lambda match: tokens.get(match.group(), match.group()), text)
    expanded = re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], ""), expanded)
    return os.path.expanduser(expanded)


def overrides(settings: ConnectionSettings, arguments: Arguments, user: str | None) -> list[tuple[str, str]]:
    """What the inventory and the command line say of a host, as ssh's options; first come, first served."""
    found: list[tuple[str, str]] = []
    if settings.port is not None:
        found.append(("Port", str(settings.port)))
    wanted_user = user or settings.user
    if wanted_user:
        found.append(("User", check_name(wanted_user, "user")))
    if settings.private_key_file:
        found.append(("IdentityFile", f'"{os.path.expanduser(settings.private_key_file)}"'))
    found += [split_option(option) for option in arguments.options]
    return found
