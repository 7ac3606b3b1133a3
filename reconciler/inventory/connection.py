"""Ansible's connection variables of one host, as values.

    ansible_connection             ssh (smart, paramiko, paramiko_ssh), local
    ansible_host, _port, _user     also with `ssh_` in between
    ansible_ssh_private_key_file   also ansible_private_key_file; `~` is the home of who runs the command
    ansible_ssh_common_args        -F FILE, -o KEY=VALUE, -J HOST; ansible_ssh_extra_args follow them
    ansible_python_interpreter     a path or a name; `auto` and its kin: found on the host
    ansible_become, _become_user, _become_method, ansible_timeout

Passwords are not read from an inventory: sudo's is asked for with -K.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from reconciler.inventory.desired import ConnectionSettings, Position
from reconciler.inventory.faults import FaultLog
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.templates import Variables
from reconciler.inventory.yaml import fail

CONNECTIONS = {
    "ssh": "ssh",
    "smart": "ssh",
    "paramiko": "ssh",
    "paramiko_ssh": "ssh",
    "ansible.builtin.ssh": "ssh",
    "ansible.builtin.paramiko_ssh": "ssh",
    "local": "local",
    "ansible.builtin.local": "local",
}
MAX_TIMEOUT = 3600.0
_TRUE = frozenset({"y", "yes", "on", "1", "true", "t"})
_FALSE = frozenset({"n", "no", "off", "0", "false", "f"})
_ADDRESS = re.compile(r"[\w.:%\[\]][\w.:%\[\]-]*")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\+-]*\$?")
_METHOD = re.compile(r"[a-z][a-z0-9_.]*")
# The arguments of ssh that mean the same to every transport; each takes a value.
_SSH_OPTIONS = ("-F", "-o", "-J")
_NO_ARGUMENTS: tuple[str, ...] = ()

T = TypeVar("T")


def connection_settings(host: str, variables: Variables, log: FaultLog) -> ConnectionSettings:
    """How a host is reached. What is wrong is logged and left at its default."""
    read = _Reader(host, variables, log)
    settings = ConnectionSettings(host)
    return replace(
        settings,
        connection=read.value(_connection, settings.connection, "ansible_connection"),
        address=read.value(_address, None, "ansible_host", "ansible_ssh_host"),
        port=read.value(_port, None, "ansible_port", "ansible_ssh_port"),
        user=read.value(_account, None, "ansible_user", "ansible_ssh_user"),
        private_key_file=read.value(_file, None, "ansible_private_key_file", "ansible_ssh_private_key_file"),
        common_args=(
            *read.value(_ssh_arguments, _NO_ARGUMENTS, "ansible_ssh_common_args"),
            *read.value(_ssh_arguments, _NO_ARGUMENTS, "ansible_ssh_extra_args"),
        ),
        python=read.value(_interpreter, None, "ansible_python_interpreter"),
        become=read.value(truth, settings.become, "ansible_become"),
        become_user=read.value(_account, None, "ansible_become_user") or settings.become_user,
        become_method=read.value(_method, settings.become_method, "ansible_become_method"),
        timeout=read.value(_seconds, settings.timeout, "ansible_timeout", "ansible_ssh_timeout"),
    )


class _Reader:
    def __init__(self, host: str, variables: Variables, log: FaultLog) -> None:
        self._host = host
        self._variables = variables
        self._log = log

    def value(self, parse: Callable[[Any, str, Position], T], default: T, *names: str) -> T:
        """The value of the last of these variables that is set, as `parse` types it."""
        for name in reversed(names):
            node = self._variables.node(name)
            if node is not None:
                with self._log.catching(self._host):
                    value = self._variables[name]
                    return default if value is None else parse(value, name, node.position)
        return default


def truth(value: Any, name: str, position: Position) -> bool:
    """A yes or no in any spelling that Ansible takes."""
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        fail(position, f"{name} is neither yes nor no: '{value}'")
    return word in _TRUE


def _text(value: Any, name: str, position: Position) -> str:
    if isinstance(value, dict | list):
        fail(position, f"{name} is not one word")
    return str(value)


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[Any, str, Position], str | None]:
    def parse(value: Any, name: str, position: Position) -> str | None:
        text = _text(value, name, position)
        if pattern.fullmatch(text) is None:
            fail(position, f"{name}: {text!r} is not {what}")
        return text

    return parse


_address = _matching(_ADDRESS, "an address")
_account = _matching(_ACCOUNT, "the name of an account")


def _connection(value: Any, name: str, position: Position) -> str:
    text = _text(value, name, position)
    if text not in CONNECTIONS:
        fail(position, f"{name}: '{text}' is not known", did_you_mean(text, CONNECTIONS) or "ssh or local")
    return CONNECTIONS[text]


def _method(value: Any, name: str, position: Position) -> str:
    text = _text(value, name, position)
    if _METHOD.fullmatch(text) is None:
        fail(position, f"{name}: {text!r} is not a way to become another user", "sudo")
    return text.removeprefix("ansible.builtin.")


def _port(value: Any, name: str, position: Position) -> int | None:
    text = _text(value, name, position)
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        fail(position, f"{name}: '{text}' is not a port")
    return int(text)


def _seconds(value: Any, name: str, position: Position) -> float:
    try:
        seconds = float(_text(value, name, position))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_TIMEOUT:
        fail(position, f"{name}: '{value}' is not a number of seconds up to {MAX_TIMEOUT:.0f}")
    return seconds


def _file(value: Any, name: str, position: Position) -> str | None:
    return os.path.expanduser(_word(value, name, position))


def _interpreter(value: Any, name: str, position: Position) -> str | None:
    text = _word(value, name, position)
    return None if text in {"auto", "auto_legacy", "auto_silent", "auto_legacy_silent"} else text


def _word(value: Any, name: str, position: Position) -> str:
    text = _text(value, name, position)
    if not text or text.startswith("-") or not text.isprintable():
        fail(position, f"{name}: {text!r} is not a path")
    return text


def _ssh_arguments(value: Any, name: str, position: Position) -> tuple[str, ...]:
    """The arguments as a flat list in which each option is followed by its value."""
    try:
        words = shlex.split(_text(value, name, position))
    except ValueError as error:
        fail(position, f"{name}: {error}", "a quote is open")
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        option = word[:2]
        if option not in _SSH_OPTIONS:
            fail(position, f"{name}: '{word}' is not understood", "-F FILE, -o KEY=VALUE and -J HOST are")
        argument = word[2:] or next(rest, "")
        if not argument or (option == "-o" and "=" not in argument and " " not in argument):
            fail(position, f"{name}: {option} lacks its value", "-F FILE, -o KEY=VALUE, -J HOST")
        found += [option, argument]
    return tuple(found)
