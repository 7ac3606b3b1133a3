"""The house as the design draws it: layers, what core may import, and what lives in one place only.

The layers themselves are contracts in pyproject.toml; here they are run, and shown to go red.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pythons import VERSIONS, interpreter

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "reconciler"

# What may be imported, or called, in these files only: (name, files or folders below reconciler/).
ONE_PLACE = [
    ("fabric", ["transport/ssh.py"]),
    ("paramiko", ["transport/ssh.py", "lab/server.py"]),
    # Beside the remote shell: ssh_config's own words, and commands that people copy.
    ("shlex.quote", ["transport/quoting.py", "transport/sshconfig.py", "cli/render/words.py"]),
    ("click", ["cli"]),
    ("rich", ["cli"]),
    ("jinja2", ["inventory"]),
]


def sources(below: Path = PACKAGE) -> list[Path]:
    return sorted(below.rglob("*.py"))


def imports(text: str) -> Iterator[str]:
    """The dotted names that a module imports, anywhere in it; `from a import b` as a.b. Only for type checkers: not."""
    for node in _run_time_nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _run_time_nodes(child)


def foreign_to_core(text: str) -> set[str]:
    """What core may not import: neither the standard library nor core itself."""
    allowed = sys.stdlib_module_names | {"__future__"}
    return {
        name
        for name in imports(text)
        if name.split(".")[0] not in allowed and not f"{name}.".startswith("reconciler.core.")
    }


def uses(text: str, name: str) -> bool:
    """Whether a module imports `name`, or calls it by that dotted name."""
    if any(f"{found}.".startswith(f"{name}.") for found in imports(text)):
        return True
    return "." in name and any(
        isinstance(node, ast.Attribute) and ast.unparse(node) == name for node in ast.walk(ast.parse(text))
    )


@pytest.mark.parametrize("path", sources(PACKAGE / "core"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_core_imports_the_standard_library_only(path: Path) -> None:
    assert foreign_to_core(path.read_text()) == set()


@pytest.mark.parametrize(
    "text",
    [
        "import yaml",
        "from reconciler.cli import main",
        "def f():\n    import paramiko",
        "from reconciler import inventory",
    ],
)
def test_a_foreign_import_in_core_would_be_seen(text: str) -> None:
    assert foreign_to_core(text)


@pytest.mark.parametrize(("name", "places"), ONE_PLACE, ids=[name for name, _ in ONE_PLACE])
def test_one_thing_lives_in_one_place(name: str, places: list[str]) -> None:
    users = [str(path.relative_to(PACKAGE)) for path in sources() if uses(path.read_text(), name)]
    assert [user for user in users if not any(user == place or user.startswith(f"{place}/") for place in places)] == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import paramiko.client", "paramiko"),
        ("from shlex import quote", "shlex.quote"),
        ("shlex.quote('x')", "shlex.quote"),
    ],
)
def test_a_second_place_would_be_seen(text: str, name: str) -> None:
    assert uses(text, name)
    assert not uses("import paramikoish", name)


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(directory)},
    )


def test_every_layer_imports_only_layers_above_it_in_the_design() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("core/errors.py", "import reconciler.core.fs"),
        ("core/nix/__init__.py", "import reconciler.core.store"),
        ("inventory/__init__.py", "import reconciler.packages"),
        ("fleet/__init__.py", "import reconciler.cli"),
    ],
)
def test_an_import_against_the_layers_would_be_seen(tmp_path: Path, path: str, line: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "reconciler", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "reconciler" / path).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout


_IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import reconciler.core
for module in pkgutil.walk_packages(reconciler.core.__path__, "reconciler.core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_core_is_importable_without_site_packages_under_each_python(version: str) -> None:
    python = interpreter(version)
    done = subprocess.run(
        [python, "-I", "-S", "-B", "-W", "error", "-c", _IMPORT_ALL, ROOT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
