"""Ansible's connection variables, typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reconciler.inventory.desired import ConnectionSettings
from tests.inventory.trees import faults_of, read

READ: dict[str, dict[str, Any]] = {
    "ansible_host: 10.0.0.1": {"address": "10.0.0.1"},
    "ansible_ssh_host: a.example": {"address": "a.example"},
    "ansible_port: 2222": {"port": 2222},
    "ansible_port: '2222'": {"port": 2222},
    "ansible_port: '{{ 2000 + 222 }}'": {"port": 2222},
    "ansible_user: deploy": {"user": "deploy"},
    "ansible_user: ~": {},
    "ansible_ssh_private_key_file: ~/.ssh/key": {"private_key_file": "/home/me/.ssh/key"},
    "ansible_private_key_file: keys/one": {"private_key_file": "keys/one"},
    "ansible_connection: local": {"connection": "local"},
    "ansible_connection: smart": {"connection": "ssh"},
    "ansible_connection: paramiko_ssh": {"connection": "ssh"},
    "ansible_python_interpreter: /usr/bin/python3.9": {"python": "/usr/bin/python3.9"},
    "ansible_python_interpreter: auto_silent": {"python": None},
    "ansible_become: true": {"become": True},
    "ansible_become: 'yes'": {"become": True},
    "ansible_become: 0": {"become": False},
    "ansible_become_user: admin": {"become_user": "admin"},
    "ansible_become_method: ansible.builtin.sudo": {"become_method": "sudo"},
    "ansible_timeout: 30": {"timeout": 30.0},
    "ansible_ssh_common_args: -F x -oPort=22 -J jump": {"common_args": ("-F", "x", "-o", "Port=22", "-J", "jump")},
    "ansible_ssh_common_args: '-F \"a b\"'": {"common_args": ("-F", "a b")},
    "ansible_ssh_extra_args: -o A=b, ansible_ssh_common_args: -J j": {"common_args": ("-J", "j", "-o", "A=b")},
}

REFUSED = {
    "ansible_host: -oProxyCommand=id": "ansible_host: '-oProxyCommand=id' is not an address",
    "ansible_host: [a]": "ansible_host is not one word",
    "ansible_host: 'a b'": "ansible_host: 'a b' is not an address",
    "ansible_port: 0": "ansible_port: '0' is not a port",
    "ansible_port: 65536": "ansible_port: '65536' is not a port",
    "ansible_port: ssh": "ansible_port: 'ssh' is not a port",
    "ansible_user: -x": "ansible_user: '-x' is not the name of an account",
    "ansible_user: $(id)": "ansible_user: '$(id)' is not the name of an account",
    "ansible_become: perhaps": "ansible_become is neither yes nor no: 'perhaps'",
    "ansible_become_user: a b": "ansible_become_user: 'a b' is not the name of an account",
    "ansible_connection: shs": "ansible_connection: 'shs' is not known",
    "ansible_connection: docker": "ansible_connection: 'docker' is not known",
    "ansible_timeout: soon": "ansible_timeout: 'soon' is not a number of seconds up to 3600",
    "ansible_timeout: nan": "ansible_timeout: 'nan' is not a number of seconds up to 3600",
    "ansible_ssh_common_args: -vvv": "ansible_ssh_common_args: '-vvv' is not understood",
    "ansible_ssh_common_args: -F": "ansible_ssh_common_args: -F lacks its value",
    "ansible_ssh_common_args: -o Port": "ansible_ssh_common_args: -o lacks its value",
    "ansible_ssh_common_args: '-o \"x'": "ansible_ssh_common_args: No closing quotation",
    "ansible_python_interpreter: -c": "ansible_python_interpreter: '-c' is not a path",
    "ansible_ssh_private_key_file: ''": "ansible_ssh_private_key_file: '' is not a path",
}


@pytest.mark.parametrize("variables", READ)
def test_a_variable_is_read_as_ansible_reads_it(
    variables: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    inventory = read(tmp_path, f"all: {{hosts: {{h: {{{variables}}}}}}}")
    assert inventory.connection("h") == ConnectionSettings("h", **READ[variables])


@pytest.mark.parametrize("variables", REFUSED)
def test_a_variable_that_cannot_be_meant_is_refused_where_it_stands(variables: str, tmp_path: Path) -> None:
    (message,) = faults_of(tmp_path, f"all: {{hosts: {{h: {{{variables}}}}}}}")
    column = len("all: {hosts: {h: {") + len(variables.split(":", maxsplit=1)[0]) + 3
    assert message == f"hosts.yml:1:{column}: {REFUSED[variables]} (on h)"


def test_a_port_behind_a_host_is_its_port(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {'web[1:2]:2222': }}")
    assert [inventory.connection(host).port for host in ("web1", "web2")] == [2222, 2222]


def test_the_folder_of_the_inventory_may_stand_in_a_variable(tmp_path: Path) -> None:
    inventory = read(
        tmp_path, 'all: {hosts: {h: }, vars: {ansible_ssh_common_args: "-F {{ inventory_dir }}/.lab/ssh_config"}}'
    )
    assert inventory.connection("h").common_args == ("-F", f"{tmp_path}/.lab/ssh_config")
