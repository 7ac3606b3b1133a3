"""Trees of a toolchain: what of some packages goes in, and that their archive is one."""

from __future__ import annotations

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix import nar
from reconciler.packages.deb_archive import Member
from reconciler.packages.toolchain_tree import Shape, archive, tree


def file(path: str, contents: bytes = b"x", executable: bool = False) -> Member:
    return Member(tuple(path.split("/")), contents, executable)


def link(path: str, target: str) -> Member:
    return Member(tuple(path.split("/")), target=target)


def test_what_lies_in_bin_and_lib_goes_where_usr_has_it_and_all_else_is_left_out() -> None:
    members = [file("bin/sh", b"shell", True), file("usr/bin/cc"), file("lib64/loader"), file("etc/passwd")]
    assert tree(Shape(), [members, [file("var/lib/x"), file("usr/lib/y")]]) == {
        "bin/sh": nar.File(b"shell", True),
        "bin/cc": nar.File(b"x"),
        "lib64/loader": nar.File(b"x"),
        "lib/y": nar.File(b"x"),
    }


LINKS = {
    ("lib64/loader", "/lib/x/loader.so"): "../lib/x/loader.so",
    ("usr/bin/cc", "gcc"): "gcc",
    ("usr/lib/x/libm.so", "/lib/x/libm.so.6"): "libm.so.6",
    ("usr/lib/x/libz.so", "../../../lib/x/libz.so.1"): "libz.so.1",
    ("usr/bin/up", "../share/tool"): "../share/tool",
    ("bin/far", "../../../../usr/bin/true"): "true",
}


@pytest.mark.parametrize(("link_and_target", "wanted"), LINKS.items())
def test_links_are_relative_in_the_tree(link_and_target: tuple[str, str], wanted: str) -> None:
    path, target = link_and_target
    (node,) = tree(Shape(), [[link(path, target)]]).values()
    assert node == nar.Link(wanted)


@pytest.mark.parametrize("target", ["/etc/alternatives/awk", "../../etc/shadow", "/", "../..", "/usr", "/var/lib/x"])
def test_a_link_that_leads_out_of_the_tree_is_refused_and_can_be_dropped(target: str) -> None:
    with pytest.raises(FormatError, match="out of the tree") as error:
        tree(Shape(), [[link("usr/bin/awk", target)]])
    assert error.value.hint == "`drop` it"
    assert tree(Shape(drop=("bin/awk",)), [[link("usr/bin/awk", target)]]) == {}


def test_patterns_keep_and_drop_with_all_that_is_below_and_links_are_added() -> None:
    members = [file(f"usr/{path}") for path in ("share/doc/x/y", "lib/a.so", "lib/a.so.1", "lib/deep/a.so", "bin/x")]
    assert set(tree(Shape(drop=("share", "lib/*/a.so")), [members])) == {"lib/a.so", "lib/a.so.1", "bin/x"}
    assert set(tree(Shape(keep=("lib/*.so*",)), [members])) == {"lib/a.so", "lib/a.so.1"}
    made = tree(Shape(keep=("bin",), links=(("bin/y", "x"),)), [members])
    assert made == {"bin/x": nar.File(b"x"), "bin/y": nar.Link("x")}


def test_the_same_file_of_two_packages_is_one_and_two_that_differ_are_refused() -> None:
    assert tree(Shape(), [[file("usr/x/a")], [file("usr/x/a")]]) == {"x/a": nar.File(b"x")}
    with pytest.raises(FormatError, match="two of the packages have a file x/a"):
        tree(Shape(), [[file("usr/x/a")], [file("usr/x/a", b"other")]])


@pytest.mark.parametrize("order", [("lib/x", "lib/x/y"), ("lib/x/y", "lib/x")])
def test_a_file_in_the_place_of_a_directory_is_refused(order: tuple[str, ...]) -> None:
    """A link in the place of a directory is what an archive that wants to write elsewhere begins with."""
    for first in (nar.File(b""), nar.Link("/etc")):
        with pytest.raises(FormatError, match=r"lib/x|x is a file"):
            b"".join(archive(dict.fromkeys(order, first)))


def test_the_archive_of_a_tree_is_the_one_that_the_format_module_writes() -> None:
    entries: dict[str, nar.Node] = {
        "bin/b": nar.File(b"run", True),
        "bin/a": nar.Link("b"),
        "b": nar.File(b"odd size"),
        "lib/x/y/z": nar.File(b""),
    }
    lib = nar.Directory({"x": nar.Directory({"y": nar.Directory({"z": nar.File(b"")})})})
    bin_ = nar.Directory({"a": nar.Link("b"), "b": nar.File(b"run", True)})
    whole = nar.Directory({"b": nar.File(b"odd size"), "bin": bin_, "lib": lib})
    assert b"".join(archive(entries)) == nar.encode(whole)
