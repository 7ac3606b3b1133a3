"""Which hosts a pattern means, as Ansible reads it.

    PATTERN   parts between commas; without a comma, between colons (outside brackets)
    part      NAME, GLOB (* ? [abc]), ~REGEX (from the start of the name), all; a group's name before a host's
              NAME[N], NAME[N:M], NAME[N:]   by position, ends included, N below 0 from the end
              &part   only these     !part   not these     @FILE   the parts in a file, one a line, `#` begins a comment

First the plain parts, in their order; then every `&`; then every `!`. With none of the first, `all`. Unlike Ansible, a
part that matches nothing is an error, and so is a pattern that leaves no host; `localhost` is a host only where the
inventory has it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.errors import UsageError
from reconciler.inventory.faults import name_hosts
from reconciler.inventory.graph import ALL, UNGROUPED, Group, hosts_of
from reconciler.inventory.names import nearest, split_port

_SUBSCRIPT = re.compile(r"(?P<name>.+)\[(?:(?P<index>-?[0-9]+)|(?P<first>[0-9]+)[:-](?P<last>[0-9]*))\]")
_PARTS = re.compile(r"(?:[^\s:\[\]]|\[[^\]]*\])+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*::[0-9A-Fa-f:.]*|(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}")
_GLOB_SIGNS = frozenset(".?*[")
_LOCALHOST = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Selector:
    """Selects among `hosts`, which come in the inventory's order."""

    hosts: Collection[str]
    groups: Mapping[str, Group]

    def select(self, pattern: str) -> list[str]:
        """The hosts of a pattern, each once; UsageError naming the first part that matches nothing."""
        parts = _in_order(_with_files(split_pattern(pattern), pattern))
        chosen: dict[str, None] = {}
        for part in parts:
            chosen = self._apply(part, chosen, pattern)
        if not chosen:
            raise UsageError(f"pattern '{pattern}' leaves no host")
        return list(chosen)

    def _apply(self, part: str, chosen: dict[str, None], pattern: str) -> dict[str, None]:
        sign = part[0] if part[0] in "&!" else ""
        if not sign and part in self.hosts:
            return {**chosen, part: None}
        matched = self._matches(part[len(sign) :], pattern)
        if not sign:
            if not matched:
                raise self._nothing(part, pattern, "matches no host")
            return {**chosen, **dict.fromkeys(matched)}
        within = set(matched)
        kept = {host: None for host in chosen if (host in within) == (sign == "&")}
        if sign == "!" and len(kept) == len(chosen):
            raise self._nothing(part, pattern, "excludes no host", matched)
        if sign == "&" and not kept:
            raise self._nothing(part, pattern, "leaves no host" if matched else "matches no host", matched)
        return kept

    def _matches(self, name: str, pattern: str) -> list[str]:
        if not name:
            raise UsageError(f"pattern '{pattern}' has a sign without a name behind it")
        if name.startswith("~"):
            return self._named(_regex(name[1:], pattern), also_hosts=True)
        subscript = _SUBSCRIPT.fullmatch(name)
        glob = subscript["name"] if subscript else name
        also_hosts = not _GLOB_SIGNS.isdisjoint(glob)
        found = self._named(re.compile(fnmatch.translate(glob)), also_hosts)
        return _subscripted(found, subscript) if subscript else found

    def _named(self, expression: re.Pattern[str], also_hosts: bool) -> list[str]:
        """The hosts of the groups that match; with them, or where no group does, the hosts that match themselves."""
        groups = [name for name in self.groups if expression.match(name)]
        found = dict.fromkeys(host for name in groups for host in hosts_of(name, self.groups))
        if also_hosts or not groups:
            found.update(dict.fromkeys(host for host in self.hosts if expression.match(host)))
        return list(found)

    def _nothing(self, part: str, pattern: str, what: str, matched: Sequence[str] = ()) -> UsageError:
        which = f"pattern '{pattern}' {what}" if part == pattern else f"pattern '{pattern}': '{part}' {what}"
        if matched:
            return UsageError(which, f"{name_hosts(list(matched))}: not among the hosts that the rest of it means")
        return UsageError(which, self._advice(part.lstrip("&!"), part, pattern))

    def _advice(self, name: str, part: str, pattern: str) -> str | None:
        """What to type instead of a part that matches nothing."""
        special = (
            (name == ALL, "the inventory has no hosts"),
            (name in _LOCALHOST, f"{name} is a host only where the inventory names it, with ansible_connection: local"),
            (name in self.groups, f"the group '{name}' has no hosts"),
            ("," in pattern and ":" in part, "where a comma separates, ':' does not: put commas between all parts"),
        )
        for applies, advice in special:
            if applies:
                return advice
        if (subscript := _SUBSCRIPT.fullmatch(name)) is not None:
            return f"{name[len(subscript['name']) :]} picks by position; '~{name}$' matches by name"
        longer = [host for host in self.hosts if host.startswith(name)]
        groups = [group for group in self.groups if group not in (ALL, UNGROUPED)]
        meant = _short(name, longer) or nearest(name, [*groups, *self.hosts])
        also = f"  ('{pattern.replace(part, part + '*')}' also works)" if longer else ""
        return "reconciler inventory lists hosts and groups" if meant is None else f"did you mean {meant}?{also}"


def split_pattern(pattern: str) -> list[str]:
    """The parts of a pattern; UsageError when there is none."""
    if "," in pattern:
        parts = pattern.split(",")
    elif _is_address(pattern.strip()):
        parts = [pattern]
    else:
        parts = _PARTS.findall(pattern)
        if set(_PARTS.sub("", pattern)) & set("[]"):
            raise UsageError(f"pattern '{pattern}' has a bracket without its other half")
    found = [part.strip() for part in parts if part.strip()]
    if not found:
        raise UsageError("the pattern is empty", "--hosts all means every host")
    return found


def _is_address(text: str) -> bool:
    """Whether the colons in a text belong to one address: of IPv6, or before a port."""
    return _IPV6.fullmatch(text) is not None or (split_port(text)[1] is not None and text[0] not in "&!~@")


def _with_files(parts: Iterable[str], pattern: str) -> list[str]:
    found: list[str] = []
    for part in parts:
        found += _file_parts(part[1:], pattern) if part.startswith("@") else [part]
    if not found:
        raise UsageError(f"pattern '{pattern}' names files that are empty")
    return found


def _file_parts(path: str, pattern: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"pattern '{pattern}': '{path}' cannot be read: {reason}") from error
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def _in_order(parts: Sequence[str]) -> list[str]:
    plain = [part for part in parts if part[0] not in "&!"] or [ALL]
    return plain + [part for part in parts if part[0] == "&"] + [part for part in parts if part[0] == "!"]


def _regex(expression: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise UsageError(f"pattern '{pattern}': '~{expression}' is not a regular expression: {error.msg}") from error


def _subscripted(hosts: Sequence[str], subscript: re.Match[str]) -> list[str]:
    if subscript["index"] is not None:
        index = int(subscript["index"])
        return [hosts[index]] if -len(hosts) <= index < len(hosts) else []
    last = subscript["last"]
    return list(hosts[int(subscript["first"]) : int(last) + 1 if last else None])


def _short(name: str, longer: Sequence[str]) -> str | None:
    """The one host whose first label a name is."""
    whole = [host for host in longer if host.startswith(name + ".")]
    return whole[0] if len(whole) == 1 else None
