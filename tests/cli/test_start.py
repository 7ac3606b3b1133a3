"""What a command imports. A library that a command has no use for costs every run of it; times are measured elsewhere
(docs/benchmarks.md), here it is seen that nothing brings the heavy ones back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

HEAVY = {
    *("asyncio", "cryptography", "email", "fabric", "http.client", "invoke", "jinja2", "paramiko", "pydantic"),
    *("rich", "sqlite3", "ssl", "tarfile", "unittest", "yaml"),
}
_HOSTS = "all: {hosts: {one: {desired: {packages: [hello]}}}}\n"
_TEMPLATE = "all: {hosts: {one: {word: hello, desired: {packages: ['{{ word }}']}}}}\n"
_RECIPE = "version: 1.0\ntoolchain: host\nbuild: |\n  echo hello > $out\n"
_STARTED = """
import json, sys
from reconciler.cli.main import run
status = run("reconciler", sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps([status, sorted(sys.modules)]))
"""


def imported(directory: Path, files: Mapping[str, str], *words: str) -> set[str]:
    """The modules that `reconciler WORDS`, which does its work, has imported at its end, among these files."""
    for name, text in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = directory / "found.json"
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "RECONCILER_STORE": str(directory / "store")}
    done = subprocess.run(
        [sys.executable, "-c", _STARTED, found, *words],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    status, modules = json.loads(found.read_text())
    assert status == 0, done.stderr
    return set(modules)


@pytest.mark.parametrize(
    ("files", "words", "needed"),
    [
        ({}, ["--version"], set()),
        ({}, ["--help"], set()),
        ({}, ["deploy", "--help"], set()),
        ({"hosts.yml": _HOSTS}, ["inventory", "-i", "hosts.yml", "--host", "one"], {"yaml"}),
        ({"hosts.yml": _TEMPLATE}, ["inventory", "-i", "hosts.yml", "--host", "one"], {"yaml", "jinja2"}),
        (
            {"hosts.yml": _HOSTS, "packages/hello.yml": _RECIPE},
            ["deploy", "-i", "hosts.yml", "--hosts", "one", "--action", "build", "--check"],
            {"yaml", "pydantic", "email"},  # email: importlib.metadata, by which pydantic looks for plug-ins
        ),
    ],
    ids=["version", "help", "help of deploy", "inventory", "template", "deploy"],
)
def test_a_command_imports_no_library_that_it_has_no_use_for(
    tmp_path: Path, files: dict[str, str], words: list[str], needed: set[str]
) -> None:
    assert imported(tmp_path, files, *words) & HEAVY == needed


def test_help_imports_no_layer_but_what_reads_the_command_line(tmp_path: Path) -> None:
    found = imported(tmp_path, {}, "--help")
    ours = {name for name in found if name.startswith("reconciler.")}
    allowed = ("reconciler.cli", "reconciler.core", "reconciler.core.errors", "reconciler.core.values")
    assert {name for name in ours if not name.startswith("reconciler.cli.")} <= {
        *allowed,
        "reconciler.inventory",
        "reconciler.inventory.names",
    }
