"""The stand-ins mean what the real modules mean, for what core uses of them."""

from __future__ import annotations

import contextlib
import enum
import importlib
import json
import pkgutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reconciler.core
from reconciler.core.agent import lean, messages

TOP = str(Path(__file__).parents[3])

STAND_IN: Any = lean


def enums(module: Any) -> tuple[Any, Any]:
    class Colour(module.Enum):  # type: ignore[misc]
        RED = "red"
        GREEN = "green"
        ROUGE = "red"

        @property
        def warm(self) -> bool:
            return self is Colour.RED

    class Number(module.IntEnum):  # type: ignore[misc]
        ONE = 1
        TWO = 2

    return Colour, Number


@pytest.mark.parametrize("module", [enum, lean], ids=["real", "lean"])
def test_an_enum_is_as_by_enum(module: Any) -> None:
    colour, number = enums(module)
    assert [member.name for member in colour] == ["RED", "GREEN"]
    assert colour("red") is colour.RED is colour.ROUGE is colour["ROUGE"]
    assert colour(colour.RED) is colour.RED
    assert (colour.RED.value, colour.RED.warm, colour.GREEN.warm) == ("red", True, False)
    assert repr(colour.RED) == "<Colour.RED: 'red'>"
    assert str(colour.RED) == "Colour.RED"
    assert {colour.RED: 1}[colour("red")] == 1
    assert isinstance(colour.RED, colour)
    assert colour.RED in colour
    assert len(colour) == 2
    assert set(colour.__members__) == {"RED", "GREEN", "ROUGE"}
    assert colour.RED != "red"
    assert number.TWO == 2
    assert number(2) is number.TWO
    assert number.ONE + 1 == 2
    assert sorted([number.TWO, number.ONE]) == [1, 2]
    assert json.dumps([number.ONE]) == "[1]"
    with pytest.raises(ValueError, match="'blue' is not a valid"):
        colour("blue")
    with pytest.raises(AttributeError):
        colour.RED = 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_json_is_written_and_read_as_by_json(value: Any) -> None:
    compact = lean.dumps(value, separators=(",", ":"))  # type: ignore[no-untyped-call]
    assert compact == json.dumps(value, separators=(",", ":"))
    assert lean.dumps(value) == json.dumps(value)  # type: ignore[no-untyped-call]
    assert lean.loads(f" {compact}\n") == value  # type: ignore[no-untyped-call]
    assert lean.loads(compact.encode()) == value  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "nul", '"a', "1 2", "{'a': 1}", '{"a" 1}', "[", b"\xff"])
def test_what_is_no_json_is_refused_as_by_json(text: Any) -> None:
    for module in (json, STAND_IN):
        with pytest.raises(ValueError):  # noqa: PT011  # the two word it differently
            module.loads(text)


def test_what_json_cannot_say_is_refused() -> None:
    for module in (json, STAND_IN):
        with pytest.raises(TypeError):
            module.dumps({"a": object()})


def managers(module: Any, seen: list[str]) -> Any:
    @module.contextmanager  # type: ignore[untyped-decorator]
    def noting(swallow: bool = False, again: bool = False) -> Any:
        seen.append("enter")
        try:
            yield "value"
        except KeyError:
            seen.append("key")
            if not swallow:
                raise
        finally:
            seen.append("leave")
        if again:
            yield "twice"

    return noting


@pytest.mark.parametrize("module", [contextlib, lean], ids=["real", "lean"])
def test_a_context_manager_is_as_by_contextlib(module: Any) -> None:
    seen: list[str] = []
    noting = managers(module, seen)
    with noting() as value:
        assert value == "value"
    with pytest.raises(KeyError), noting():
        raise KeyError
    with noting(swallow=True):
        raise KeyError
    with pytest.raises(ValueError, match="mine"), noting():
        raise ValueError("mine")
    with pytest.raises(StopIteration), noting():
        raise StopIteration
    with pytest.raises(RuntimeError, match="didn't stop"), noting(again=True):
        pass
    assert seen.count("enter") == seen.count("leave") == 6
    with module.suppress(KeyError, ValueError):
        raise ValueError
    with pytest.raises(TypeError), module.suppress(KeyError):
        raise TypeError
    with module.closing(open("/dev/null")) as file:
        assert not file.closed
    assert file.closed


@pytest.mark.parametrize(
    "cls", [getattr(messages, name) for name in dir(messages) if name.endswith(("Request", "State"))]
)
def test_type_hints_lead_to_the_same_messages(cls: Any) -> None:
    def plain(hint: Any) -> Any:
        origin = typing.get_origin(hint)
        return hint if origin is None else (origin, tuple(plain(arm) for arm in typing.get_args(hint)))

    real = {name: plain(hint) for name, hint in typing.get_type_hints(cls).items()}
    assert {name: plain(hint) for name, hint in lean.get_type_hints(cls).items()} == real  # type: ignore[no-untyped-call]


def test_optional_is_a_union_with_none() -> None:
    hint = lean.typing.Optional[int]
    assert lean.get_origin(hint) is lean.typing.Union  # type: ignore[no-untyped-call]
    assert lean.get_args(hint) == (int, type(None))  # type: ignore[no-untyped-call]
    assert typing.get_args(Optional[int]) == (int, type(None))  # noqa: UP045


CORE = sorted(
    module.name for module in pkgutil.walk_packages(reconciler.core.__path__, "reconciler.core.") if not module.ispkg
)

IMPORT_ALL = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
from reconciler.core.agent import lean
import types
class Loader:
    def __init__(self, inner): self.inner = inner
    def create_module(self, spec): return None
    def exec_module(self, module):
        module.__dict__["__builtins__"] = table
        exec(self.inner.get_code(module.__name__), module.__dict__)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if not name.startswith("reconciler.core") or name == "reconciler.core.agent.lean": return None
        from importlib.machinery import PathFinder
        spec = PathFinder.find_spec(name, path)
        if spec is not None: spec.loader = Loader(spec.loader)
        return spec
table = lean.builtins_for_core()
for name in [name for name in sys.modules if name.startswith("reconciler.core") and not name.endswith("lean")]:
    if name not in ("reconciler.core", "reconciler.core.agent"): del sys.modules[name]
sys.meta_path.insert(0, Finder())
for name in sys.argv[2:]: importlib.import_module(name)
from reconciler.core.agent.messages import Observation, ObserveRequest
print(ObserveRequest.from_json({"users": ["a"], "paths": []}))
"""


def test_every_module_of_core_can_be_imported_with_the_stand_ins() -> None:
    names = [name for name in CORE if not name.endswith((".lean", ".start", "inside"))]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", IMPORT_ALL, TOP, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "ObserveRequest(users=('a',), paths=())\n"


SLOW = ("dataclasses", "enum", "inspect", "json", "re", "typing", "subprocess", "threading", "tempfile", "argparse")


def test_a_probe_imports_none_of_the_slow_modules(tmp_path: Path) -> None:
    """The budget of a no-op: what a kept agent imports to look at a host without profiles."""
    from reconciler.core.agent.cache import keep

    packed = importlib.import_module("reconciler.core.agent.archive").build()
    keep(str(tmp_path / "agent"), packed.sha256, packed.contents)
    program = (
        f"SLOW = {SLOW!r}"
        """
import sys
code, sys.argv = sys.argv[1], ["-c", *sys.argv[2:]]
import os
real = os._exit
def leave(status):
    names = [name for name in sys.modules if name in SLOW]
    os.write(2, (" ".join(names)).encode()); real(status)
os._exit = leave
exec(code)
"""
    )
    from reconciler.core.agent import bootstrap
    from reconciler.core.agent.frames import MAGIC, Kind, encode

    request = encode(Kind.REQUEST, 1, {"verb": "observe", "request": {}})
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        program,
        bootstrap.code(),
        packed.sha256,
        f"{tmp_path}/agent",
        "-",
        str(tmp_path),
    ]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write(request)
    process.stdin.flush()
    assert process.stdout.read(len(MAGIC) + 1) == MAGIC + b"R"
    while b'"hostname"' not in process.stdout.read1(65536):  # type: ignore[attr-defined]
        pass
    _, errors = process.communicate()
    assert errors.decode() == ""
