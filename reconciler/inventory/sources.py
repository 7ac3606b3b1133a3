"""The files that name hosts and groups: Ansible's YAML inventory, and the JSON that `ansible-inventory --list` and
inventory scripts print.

YAML    GROUP: {hosts: {KEY: {variables}}, children: {GROUP: ...}, vars: {variables}}    KEY: ranges, and a :PORT behind
JSON    GROUP: {hosts: [NAME], children: [GROUP], vars: {variables}} or GROUP: [NAME]
        _meta: {hostvars: {NAME: {variables}}}; without it a script is asked `--host NAME` for each

An executable file without .yml, .yaml or .json is run; in a folder, only one without any ending or with .py. INI, TOML
and plugin configurations are refused: ansible-inventory turns each of them into what is read here.
"""

from __future__ import annotations

import os
import re
import subprocess
from itertools import islice

from reconciler.inventory.desired import Position
from reconciler.inventory.faults import InputError
from reconciler.inventory.graph import ALL, Draft, Drafts
from reconciler.inventory.json_tree import parse_json
from reconciler.inventory.names import MAX_EXPANDED, expand_ranges, nearest, split_port
from reconciler.inventory.yaml import Entry, Mapping, Node, Scalar, Sequence, fail, parse, read, typed

SCRIPT_TIMEOUT = 120.0  # seconds
DATA_EXTENSIONS = frozenset({".yml", ".yaml", ".json"})
# What a file of hosts may end with in a folder; anything else there, a script above all, is left alone.
_IN_FOLDER = DATA_EXTENSIONS | {"", ".ini", ".toml"}
_SECTIONS = ("hosts", "children", "vars")
_INI_SECTION = re.compile(rb"\s*(?:[#;][^\n]*\n\s*)*\[[^\]\n,{}\"']+\][ \t]*(?:[#;][^\n]*)?(?:\n|\Z)")


def source_files(directory: str) -> list[str]:
    """The names of the files of a folder that name hosts, in the order in which they are read."""
    return sorted(
        entry.name
        for entry in os.scandir(directory)
        if entry.is_file() and not entry.name.startswith(".") and not entry.name.endswith("~") and _is_source(entry)
    )


def _is_source(entry: os.DirEntry[str]) -> bool:
    extension = os.path.splitext(entry.name)[1]
    return extension in _IN_FOLDER or (extension == ".py" and os.access(entry.path, os.X_OK))


def read_source(path: str, drafts: Drafts) -> bool:
    """Put what a file says into the drafts; True when a program said it, now or earlier, rather than a person."""
    extension = os.path.splitext(path)[1]
    if extension not in DATA_EXTENSIONS and os.access(path, os.X_OK):
        _read_list(_run(path, "--list"), drafts, script=path)
        return True
    data = read(path, path)
    if extension in {".ini", ".toml"} or _INI_SECTION.match(data):
        fail(Position(path, 1, 1), *_not_read("an INI or TOML inventory", path))
    node = parse_json(data, path) if extension == ".json" else parse(data, path)
    if isinstance(node, Scalar) and node.text == "" and node.bare:
        return False
    if not isinstance(node, Mapping):
        fail(node.position, *_not_read("an inventory: a mapping of groups is wanted", path))
    if "plugin" in node.entries:
        fail(node.entries["plugin"].key.position, *_not_read("an inventory but the configuration of a plugin", path))
    if extension == ".json" and _is_list_output(node):
        _read_list(node, drafts, script=None)
        return True
    for entry in node.entries.values():
        _top_group(entry, drafts)
    return False


def _not_read(what: str, path: str) -> tuple[str, str]:
    kind = f"this is {what}" if what.startswith("an INI") else f"this is not {what}"
    return kind, f"convert it: ansible-inventory -i {path} --list --yaml --export --output hosts.yml"


def _is_list_output(node: Mapping) -> bool:
    def is_list_group(value: Node) -> bool:
        return isinstance(value, Sequence) or (
            isinstance(value, Mapping)
            and any(isinstance(value.get(section), Sequence) for section in ("hosts", "children"))
        )

    return "_meta" in node.entries or (
        bool(node.entries) and all(is_list_group(entry.value) for entry in node.entries.values())
    )


def _mapping(value: Node | None, what: str, drafts: Drafts, hint: str | None = None) -> dict[str, Entry]:
    """The entries of a mapping that may be left empty; a fault, and nothing, for anything else."""
    if isinstance(value, Mapping):
        return value.entries
    if value is not None and not (isinstance(value, Scalar) and value.is_null):
        drafts.log.add(InputError(value.position, f"{what} is not a mapping", hint))
    return {}


def _top_group(entry: Entry, drafts: Drafts) -> None:
    if entry.key.text in _SECTIONS:
        hint = f"put it into a group: {ALL}: {{{entry.key.text}: ...}}"
        drafts.log.add(InputError(entry.key.position, f"'{entry.key.text}' stands where a group is wanted", hint))
    else:
        _group(entry, drafts)


def _group(entry: Entry, drafts: Drafts, parent: Draft | None = None) -> None:
    group = drafts.group(entry.key)
    if group is None:
        return
    if parent is not None:
        drafts.child(parent, group, entry.key.position)
    for section in _mapping(entry.value, f"group {group.name}", drafts).values():
        _section(section, group, drafts)


def _section(section: Entry, group: Draft, drafts: Drafts) -> None:
    name, value = section.key.text, section.value
    if name not in _SECTIONS:
        meant = nearest(name, _SECTIONS)
        advice = f"did you mean '{meant}'?" if meant else "a group has hosts, children and vars"
        drafts.log.add(InputError(section.key.position, f"unknown key '{name}' in group {group.name}; {advice}"))
        return
    if name != "vars" and isinstance(value, Scalar) and not value.is_null:
        # Ansible takes a single name without a mapping.
        value = Mapping({value.text: Entry(value, Scalar("", value.position))}, value.position)
    entries = _mapping(value, f"{name} of group {group.name}", drafts, "write each name as a key: 'web01:'")
    for entry in entries.values():
        if name == "vars":
            drafts.group_variable(group, entry)
        elif name == "children":
            _group(entry, drafts, parent=group)
        else:
            with drafts.log.catching():
                _hosts(entry, group, drafts)


def _hosts(entry: Entry, group: Draft, drafts: Drafts) -> None:
    key = entry.key
    if not isinstance(typed(key), str):
        fail(key.position, f"the host name {key.text} is not text to YAML", f"quote it: '{key.text}'")
    name, port = split_port(key.text)
    variables = _mapping(entry.value, f"host {key.text}", drafts)
    try:
        names = list(islice(expand_ranges(name), MAX_EXPANDED + 1))
    except ValueError as error:
        raise InputError(key.position, str(error), "a range is [01:20], [a:f] or [0:10:2]") from error
    if len(names) > MAX_EXPANDED:
        fail(key.position, f"'{key.text}' spells more than {MAX_EXPANDED:,} hosts")
    for expanded in names:
        host = drafts.host(expanded, group, key.position)
        if host is None:
            return
        if port is not None:
            host.variables.setdefault("ansible_port", Scalar(str(port), key.position))
        for variable in variables.values():
            host.say(variable, f"host {name}")


def _read_list(node: Node, drafts: Drafts, script: str | None) -> None:
    top = _mapping(node, "the output of --list", drafts)
    for entry in top.values():
        if entry.key.text != "_meta":
            with drafts.log.catching():
                _list_group(entry, drafts)
    meta = top.get("_meta")
    if meta is not None:
        hostvars = _mapping(meta.value, "_meta", drafts).get("hostvars")
        for entry in _mapping(hostvars.value if hostvars else None, "hostvars", drafts).values():
            _list_host(entry.key, entry.value, drafts)
    elif script is not None:
        for name in list(drafts.hosts):
            answer = _run(script, "--host", name)
            _list_host(Scalar(name, answer.position, bare=False), answer, drafts)


def _list_group(entry: Entry, drafts: Drafts) -> None:
    group = drafts.group(entry.key)
    if group is None:
        return
    value = entry.value
    if isinstance(value, Sequence):
        value = Mapping({"hosts": Entry(entry.key, value)}, value.position)
    sections = _mapping(value, f"group {group.name}", drafts)
    for name in _names(sections.get("hosts"), f"hosts of group {group.name}"):
        drafts.host(name.text, group, name.position)
    for name in _names(sections.get("children"), f"children of group {group.name}"):
        child = drafts.group(name)
        if child is not None:
            drafts.child(group, child, name.position)
    variables = sections.get("vars")
    for variable in _mapping(variables.value if variables else None, f"vars of group {group.name}", drafts).values():
        drafts.group_variable(group, variable)


def _names(entry: Entry | None, what: str) -> list[Scalar]:
    if entry is None:
        return []
    if not isinstance(entry.value, Sequence):
        fail(entry.value.position, f"{what} is not a list")
    for item in entry.value.items:
        if not isinstance(item, Scalar):
            fail(item.position, f"{what} has something else than names")
    return [item for item in entry.value.items if isinstance(item, Scalar)]


def _list_host(key: Scalar, value: Node, drafts: Drafts) -> None:
    # Variables of a host that no group names are nobody's, as in Ansible.
    if key.text in drafts.hosts:
        for variable in _mapping(value, f"variables of host {key.text}", drafts).values():
            drafts.hosts[key.text].say(_plain_tags(variable), f"host {key.text}")


def _plain_tags(entry: Entry) -> Entry:
    """What Ansible's JSON marks as `{"__ansible_unsafe": "text"}` or `__ansible_vault` is a scalar with that tag."""
    value = entry.value
    if isinstance(value, Mapping) and len(value.entries) == 1:
        for mark, tag in (("__ansible_unsafe", "!unsafe"), ("__ansible_vault", "!vault")):
            inner = value.get(mark)
            if isinstance(inner, Scalar):
                return Entry(entry.key, Scalar(inner.text, inner.position, bare=False, tag=tag))
    return entry


def _run(path: str, *arguments: str) -> Node:
    """The JSON that an inventory script prints; InputError with the end of what it said when it fails."""
    shown = f"output of {path} {' '.join(arguments)}"
    whole = Position(path, 0, 0)
    try:
        done = subprocess.run(
            [os.path.abspath(path), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SCRIPT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(whole, f"{' '.join(arguments)} did not end within {SCRIPT_TIMEOUT:.0f} s") from error
    except OSError as error:
        raise InputError(whole, f"cannot be run: {error.strerror}", "chmod -x it, if it is no program") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise InputError(whole, f"{' '.join(arguments)} ended with status {done.returncode}", "\n".join(said) or None)
    return parse_json(done.stdout.strip() or b"{}", shown)
