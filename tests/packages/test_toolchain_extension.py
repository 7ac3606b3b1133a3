"""Toolchains that extend another: more in what a build sees, the same C library and shell in what it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.errors import FormatError, UsageError
from reconciler.core.store.store import Store
from reconciler.packages import toolchain_pins, toolchain_sources
from reconciler.packages.toolchain import Toolchain
from tests.packages.debs import FakeApt, deb, entry
from tests.packages.project import Project
from tests.packages.test_toolchain import FILES, HERE, SYSTEM, apt, define, small, toolchains

__all__ = ["apt", "small"]  # fixtures

MORE = deb([entry("./usr/bin/more", b"more", mode=0o755), entry("./usr/share/more/x", b"x"), entry("./bin/y", b"y")])
EXTENSION = f"""extends: small
systems:
  {SYSTEM}:
    tools: {{wanted: [more], drop: [bin/y], links: {{bin/less: more}}}}
"""


def pin(project: Project, name: str = "larger") -> toolchain_pins.Renewed:
    renewed = toolchain_pins.renew(name, toolchains(project), project.inventory / "packages")
    renewed.file.write_text(renewed.text)
    return renewed


@pytest.fixture
def larger(project: Project, small: Toolchain, apt: FakeApt) -> Toolchain:
    """The small toolchain with a package more, pinned."""
    apt.files[("more", "3.0-1")] = MORE
    define(project, EXTENSION, "larger")
    assert pin(project).moved == {SYSTEM: ("more  not there -> 3.0-1",)}
    return toolchains(project).find("larger", SYSTEM, HERE)


@pytest.mark.nix
def test_what_is_made_with_it_refers_to_the_same_libc_and_shell(
    small: Toolchain, larger: Toolchain, store: Store
) -> None:
    assert (larger.libc, larger.shell) == (small.libc, small.shell)
    assert larger.tools.path != small.tools.path
    assert larger.tools.path.name == "larger-tools"
    assert [each.package for each in larger.tools.debs] == ["more"], "what it extends brings its own"
    for source in toolchain_sources.sources(larger):
        source.add_to(store)
    tools = Path(store.real(larger.tools.path))
    assert sorted(str(path.relative_to(tools)) for path in tools.rglob("*") if not path.is_dir()) == [
        "bin/ld",
        "bin/ld.real",
        "bin/ld.real.unwrapped",
        "bin/less",
        "bin/more",
        "lib/l/libc.so.6",
        "lib64/ld.so",
        "share/more/x",
    ]
    assert str(small.libc.path) in (tools / "bin/ld.real").read_text()
    assert not store.is_valid(small.tools.path), "the smaller one is not needed beside it"


def test_pinned_again_it_is_the_same(project: Project, larger: Toolchain) -> None:
    file = project.inventory / "packages/toolchains/larger.yml"
    before = file.read_text()
    assert pin(project).moved == {SYSTEM: ()}
    assert file.read_text() == before
    assert toolchains(project).find("larger", SYSTEM, HERE).tools.path == larger.tools.path


def test_when_what_it_extends_moves_it_is_to_be_pinned_again(project: Project, larger: Toolchain, apt: FakeApt) -> None:
    newer = deb([entry("./usr/bin/ld.real", b"better linker", mode=0o755)])
    kept = {key: value for key, value in FILES.items() if key[0] != "ld"}
    apt.files = {**kept, ("ld", "1.1-1"): newer}
    pin(project, "small")
    apt.files[("more", "3.0-1")] = MORE
    with pytest.raises(UsageError, match="'larger' was pinned on another small: the tools of small are ") as error:
        toolchains(project).find("larger", SYSTEM, HERE)
    assert ":8:5: " in error.value.message
    assert error.value.hint == "reconciler packages toolchain larger"
    assert pin(project).moved == {SYSTEM: ()}
    assert toolchains(project).find("larger", SYSTEM, HERE).tools.path != larger.tools.path


def test_a_file_that_what_it_extends_has_otherwise_is_refused(project: Project, small: Toolchain, apt: FakeApt) -> None:
    apt.files[("more", "3.0-1")] = deb([entry("./usr/bin/ld.real", b"another", mode=0o755)])
    define(project, EXTENSION, "larger")
    with pytest.raises(FormatError, match=r"two of the packages have a file bin/ld\.real, and not the same"):
        pin(project)


WRONG = {
    "not pinned": (EXTENSION, "the toolchain 'larger' is not pinned yet"),
    "nothing to extend": (EXTENSION.replace("small", "smal"), "there is no toolchain 'smal'"),
    "itself": (EXTENSION.replace("small", "larger"), "'larger' is itself an extension"),
    "no system": (EXTENSION.replace(SYSTEM, "riscv64-linux"), f"the toolchain 'larger' is none for {SYSTEM}"),
    "nothing wanted": (EXTENSION.replace("wanted: [more], ", ""), "'wanted' is missing"),
    "a C library of its own": (EXTENSION + "    loader: x\n", "there is no key 'loader' here"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_extension_that_is_wrong_is_told_with_its_place(project: Project, small: Toolchain, what: str) -> None:
    text, message = WRONG[what]
    define(project, text, "larger")
    with pytest.raises(UsageError) as error:
        toolchains(project).find("larger", SYSTEM, HERE)
    assert message in error.value.message
    assert error.value.message.split(":")[1].isdigit()
