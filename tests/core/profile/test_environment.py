"""User environments: the store path, the text and the tree that nix-env makes, by letting it make them too."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import BuildError, FormatError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import (
    CollisionError,
    Element,
    build_environment,
    environment,
    environment_tree,
    manifest_packages,
)
from reconciler.core.store.store import Store
from tests.core.profile.packages import make_environment, package, realise_environment
from tests.oracle import RealNix


def path(name: str, letter: str = "a") -> StorePath:
    return StorePath(letter * 32, name)


@pytest.fixture
def sandboxed(store_root: Path) -> RealNix:
    """Nix builds environments in its sandbox, where links out of the store lead nowhere."""
    return RealNix(store_root, sandbox=True)


def nix_environment(nix: RealNix, *packages: StorePath) -> StorePath:
    link = nix.root / "tmp-profile" / "p"
    link.parent.mkdir(exist_ok=True)
    for old in link.parent.iterdir():
        old.unlink()
    nix.run("nix-env", "-p", link, "-ir", *map(str, packages))
    return StorePath.parse(os.readlink(link.parent / os.readlink(link)))


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_manifest_is_one_line_as_nix_prints_it() -> None:
    contents = environment([Element(path("b-1.0", "b")), Element(path("a-1.0"))]).manifest_contents.decode()
    one = (
        '{ meta = { }; name = "NAME"; out = { outPath = "PATH"; }; outPath = "PATH"; outputs = [ "out" ]; '
        'type = "derivation"; }'
    )
    parts = [one.replace("NAME", p.name).replace("PATH", str(p)) for p in (path("a-1.0"), path("b-1.0", "b"))]
    assert contents == f"[ {parts[0]} {parts[1]} ]"


def test_no_packages_make_an_environment_too() -> None:
    plan = environment([])
    assert plan.manifest_contents == b"[ ]"
    assert plan.derivation.environment["derivations"] == ""


def test_the_order_and_the_repetition_of_packages_do_not_matter() -> None:
    a, b, another = Element(path("a-1.0", "z")), Element(path("b-1.0", "b")), Element(path("a-1.0", "c"))
    plans = {environment(order).output for order in ([a, b, another], [b, another, a, a, b], [another, b, a])}
    assert len(plans) == 1
    words = environment([b, a, another]).derivation.environment["derivations"].split()
    assert [StorePath.parse(word) for word in words[3::4]] == [another.path, a.path, b.path]


def test_a_priority_is_written_as_set_flag_writes_it() -> None:
    plan = environment([Element(path("a-1.0"), 4), Element(path("a-1.0"), 9)])
    assert b'meta = { priority = "4"; };' in plan.manifest_contents
    assert plan.derivation.environment["derivations"] == f"true 4 1 {path('a-1.0')}"


TREES: dict[str, dict[str, Any]] = {
    "no package": {},
    "one package": {"a-1.0": {"bin": {"a": "a"}}},
    "two apart": {"a-1.0": {"bin": {"a": "a"}}, "b-2": {"lib": {"b": "b"}, "share": {"b": {"c": "d"}}}},
    "two that share directories": {
        "a-1.0": {"bin": {"a": "a"}, "share": {"man": {"man1": {"a.1": ""}}, "a": {"x": ""}}},
        "b-1.0": {"bin": {"b": "b"}, "share": {"man": {"man1": {"b.1": ""}, "man5": {"b.5": ""}}}},
        "c-1.0": {"bin": {"c": "c"}, "share": {"man": {"man5": {"c.5": ""}}}},
    },
    "two versions of one": {"a-1.0": {"bin": {"a1": ""}}, "a-2.0": {"bin": {"a2": ""}}},
    "what is left out": {
        "a-1.0": {
            ".hidden": "h",
            "bin": {"a": "a", ".wrapped": "w"},
            "log": "l",
            "nix-support": {"x": "y"},
            "manifest.nix": "[ ]",
            "manifest.json": "{}",
            "propagated-build-inputs": "p",
            "share": {"info": {"dir": "index", "a.info": ""}, "log": "deep", "perllocal.pod": "p"},
        },
        "b-1.0": {
            "bin": {"b": "b", ".hidden": "x"},
            "share": {"info": {"dir": "other index", "b.info": ""}, "log": "deep too", "perllocal.pod": "q"},
        },
    },
    "links of every kind": {
        "a-1.0": {
            "bin": {
                "a": "a",
                "again": ("a",),
                "dangling": ("nowhere",),
                "out": ("/opt/nowhere/x",),
                "up": ("../share/x",),
            },
            "share": {"x": "x"},
            "sbin": ("bin",),
            "gone": ("no/such",),
            "etc": ("/opt/nowhere",),
        },
        "b-1.0": {"bin": {"b": "b", "dangling": ("nowhere",)}, "sbin": {"s": "s"}},
    },
    "a file for a package": {"a-1.0": "only a file", "b-1.0": {"bin": {"b": ""}}},
    "an empty directory": {"a-1.0": {"empty": {}, "bin": {}}, "b-1.0": {"empty": {}, "bin": {"b": ""}}},
    "names in bytewise order": {
        "B-1": {"b": ""},
        "a-1": {"a": ""},
        "A-1": {"c": ""},
        "a+b-1": {"d": ""},
        "a.b-1": {"e": ""},
    },
}


@pytest.mark.nix
@pytest.mark.parametrize("trees", TREES.values(), ids=TREES.keys())
def test_path_text_and_tree_are_those_that_nix_env_makes(
    trees: dict[str, Any], store: Store, sandboxed: RealNix, tmp_path: Path
) -> None:
    packages = sorted((package(store, name, content) for name, content in trees.items()), key=lambda one: one.name)
    plan = environment([Element(one) for one in packages])
    if packages:  # -i without arguments installs nothing
        assert nix_environment(sandboxed, *packages) == plan.output
        assert (Path(store.real(plan.manifest_path))).read_bytes() == plan.manifest_contents
        deriver = sandboxed.output("nix-store", "-q", "--deriver", str(plan.output))
        assert deriver == str(plan.drv_path)
    ours = tmp_path / "ours"
    build_environment(plan.derivation.environment, store, str(ours))
    if packages:
        assert nar.hash_path(str(ours)) == nar.hash_path(store.real(plan.output))
    sandboxed.verify()


@pytest.mark.nix
def test_nix_takes_over_an_environment_that_we_made(store: Store, sandboxed: RealNix) -> None:
    a, b = package(store, "a-1.0"), package(store, "b-1.0")
    ours = make_environment(store, b, a)
    sandboxed.verify()
    assert nix_environment(sandboxed, a, b) == ours
    link = sandboxed.root / "nix/var/nix/profiles/p"
    link.symlink_to(str(ours))
    roots = sandboxed.output("nix-store", "--gc", "--print-live").splitlines()
    assert {str(ours), str(a), str(b)} <= set(roots)


def inside(root: Path, script: str) -> str:
    """What a shell script prints that sees the store below `root` as /nix, in a mount namespace of its own."""
    quoted = shlex.quote(str(root / "nix"))
    command = ["unshare", "--mount", "sh", "-euc", f"mount --bind {quoted} /nix; unset NIX_CONFIG; {script}"]
    environment_ = {**os.environ, "HOME": str(root / "home"), "NIX_CONFIG": ""}
    done = subprocess.run(command, env=environment_, capture_output=True, check=False, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.nix
@pytest.mark.root
def test_the_environment_of_nothing_is_the_one_that_nix_leaves_after_removing_all(store: Store, nix: RealNix) -> None:
    a = package(store, "a-1.0")
    store.close()
    script = f"""
        export NIX_REMOTE=local; p=/nix/var/nix/profiles/t
        nix-env -p $p -ir {a}; nix-env -p $p -e a-1.0; readlink -f $p; nix-env -p $p -q
    """
    (nix.root / "home").mkdir()
    assert inside(nix.root, script).splitlines() == [str(environment([]).output)]
    nix.verify()


@pytest.mark.nix
@pytest.mark.root
def test_nix_reads_our_manifest_and_we_read_one_that_nix_wrote_from_an_expression(store: Store, nix: RealNix) -> None:
    ours = make_environment(store, package(store, "b-1.0"), package(store, "a-1.0"))
    expression = """{ x = derivation { name = "x-2.0"; system = builtins.currentSystem; builder = "builtin:buildenv";
        outputs = [ "out" ]; derivations = ""; manifest = "/nix/store/none"; } // { meta = {
        description = "with \\"quotes\\", a \\${dollar} and a\\nnewline"; priority = 3;
        odd = [ 1 true 1.5 { } ]; }; }; }"""
    (nix.root / "nix/x.nix").write_text(expression)
    (nix.root / "home").mkdir()
    store.close()
    script = f"""
        export NIX_REMOTE=local; p=/nix/var/nix/profiles/t
        nix-env -p $p --set {ours}; nix-env -p $p -q
        nix-env -p $p -f /nix/x.nix -iA x; readlink -f $p
    """
    *names, made = inside(nix.root, script).splitlines()
    assert names == ["a-1.0", "b-1.0"]
    found = manifest_packages(store, StorePath.parse(made))
    assert sorted(one.name for one in found) == ["a-1.0", "b-1.0", "x-2.0"]
    nix.verify()


@pytest.mark.nix
def test_priorities_give_the_tree_of_nix(store: Store, sandboxed: RealNix, tmp_path: Path) -> None:
    one = package(store, "a-1.0", {"bin": {"cc": "a", "a": ""}, "share": {"x": {"f": ""}, "d": {"g": ""}}})
    two = package(store, "b-1.0", {"bin": {"cc": "b", "b": ""}, "share": {"x": "a file", "d": {"g": "two"}}})
    three = package(store, "c-1.0", {"bin": {"cc": "c"}, "share": {"d": {"h": "", "g": "three"}}})
    plan = environment([Element(one, 4), Element(two, 6), Element(three)])
    manifest = store.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
    assert manifest == plan.manifest_path
    drv = store.write_derivation(plan.derivation, "user-environment")
    assert drv == plan.drv_path
    assert sandboxed.output("nix-store", "--realise", str(drv)) == str(plan.output)
    ours = tmp_path / "ours"
    build_environment(plan.derivation.environment, store, str(ours))
    assert nar.hash_path(str(ours)) == nar.hash_path(store.real(plan.output))
    assert os.readlink(ours / "bin/cc") == f"{one}/bin/cc"
    assert os.readlink(ours / "share/x") == f"{one}/share/x"
    sandboxed.verify()


@pytest.mark.nix
def test_propagated_packages_come_along_behind_everything(store: Store, sandboxed: RealNix, tmp_path: Path) -> None:
    deep = package(store, "deep-1.0", {"bin": {"deep": "", "cc": "deep"}, "share": {"d": "x"}})
    listing = {"propagated-user-env-packages": f"{deep}\n"}
    middle = package(store, "m-1", {"bin": {"m": "", "cc": "m"}, "nix-support": listing}, (deep,))
    other = package(store, "o-1", {"bin": {"o": "", "cc": "o"}})
    names = {"propagated-user-env-packages": f"{other} {middle}"}
    top = package(store, "top-1", {"bin": {"cc": "top"}, "nix-support": names}, tuple(sorted((other, middle))))
    output = nix_environment(sandboxed, top)
    plan = environment([Element(top)])
    assert output == plan.output
    ours = tmp_path / "ours"
    build_environment(plan.derivation.environment, store, str(ours))
    assert nar.hash_path(str(ours)) == nar.hash_path(store.real(output))
    assert sorted(os.listdir(ours / "bin")) == ["cc", "deep", "m", "o"]
    assert os.readlink(ours / "bin/cc") == f"{top}/bin/cc"
    sandboxed.verify()


# --- collisions -------------------------------------------------------------------------------------------------------


def refused_by_both(store: Store, nix: RealNix, out: Path, *packages: StorePath) -> CollisionError:
    link = nix.root / "collision" / "p"
    link.parent.mkdir()
    assert nix.run("nix-env", "-p", link, "-ir", *map(str, packages), check=False).returncode != 0
    plan = environment([Element(one) for one in packages])
    with pytest.raises(CollisionError) as caught:
        build_environment(plan.derivation.environment, store, str(out))
    return caught.value


@pytest.mark.nix
def test_two_packages_with_one_file_are_refused_naming_both_and_the_way_out(
    store: Store, sandboxed: RealNix, tmp_path: Path
) -> None:
    clang = package(store, "clang-18.1", {"bin": {"cc": "clang"}})
    gcc = package(store, "gcc-13.2", {"bin": {"cc": "gcc"}})
    error = refused_by_both(store, sandboxed, tmp_path / "out", clang, gcc)
    first, second = sorted((clang, gcc), key=str)
    names = [one.name.replace("-", " ") for one in (first, second)]
    assert error.message == f"two packages own bin/cc: {names[0]} and {names[1]}\nequal priority 5"
    reference = first.name.replace("-", "@")
    assert error.hint == f"- {reference}: {{priority: 4}}      lower wins; both stay installed"
    assert (error.file, error.first, error.second, error.priority) == ("bin/cc", first, second, 5)
    assert isinstance(error, BuildError)


CLASHES: dict[str, tuple[Any, Any, str]] = {
    "a directory and a file": ({"share": {"x": {"y": ""}}}, {"share": {"x": "f", "y": ""}}, "share/x"),
    "a file and a directory": ({"x": "f"}, {"x": {"y": ""}}, "x"),
    "deep inside": ({"a": {"b": {"c": {"d": "1"}}}}, {"a": {"b": {"c": {"d": "2"}}}}, "a/b/c/d"),
    "two links to one file": ({"bin": {"x": ("y",), "y": ""}}, {"bin": {"x": ("/etc",), "y": "2"}}, "bin/y"),
}


@pytest.mark.nix
@pytest.mark.parametrize("clash", CLASHES)
def test_what_nix_refuses_is_refused(clash: str, store: Store, sandboxed: RealNix, tmp_path: Path) -> None:
    one, two, file = CLASHES[clash]
    packages = package(store, "a-1", one), package(store, "b-1", two)
    error = refused_by_both(store, sandboxed, tmp_path / "out", *packages)
    assert error.file == file
    assert {error.first, error.second} == set(packages)


def test_a_file_and_a_directory_are_told_that_no_priority_helps(store: Store, tmp_path: Path) -> None:
    # Three of them: the first two open the directory up, the third then finds a real one.
    parts: dict[str, Any] = {"a-1": {"x": {"y": ""}}, "b-1": {"x": {"z": ""}}, "c-1": {"x": "file"}}
    packages = [package(store, name, content) for name, content in parts.items()]
    plan = environment([Element(one, number) for number, one in enumerate(packages)])
    with pytest.raises(CollisionError) as caught:
        build_environment(plan.derivation.environment, store, str(tmp_path / "out"))
    assert caught.value.message == "two packages own x, one as a file and one as a directory: a 1 and c 1"
    assert caught.value.hint == "leave one of them out: no priority joins a file and a directory"


@pytest.mark.nix
def test_directories_that_would_hold_themselves_without_end_are_refused(store: Store, sandboxed: RealNix) -> None:
    packages = package(store, "a-1", {"up": (".",), "x": ""}), package(store, "b-1", {"up": (".",), "y": ""})
    link = sandboxed.root / "endless"
    assert sandboxed.run("nix-env", "-p", link, "-ir", *map(str, packages), check=False).returncode != 0
    plan = environment([Element(one) for one in packages])
    with pytest.raises(BuildError, match="does not end: its directories go in a circle at up/up/") as caught:
        environment_tree(plan.derivation.environment, store)
    assert "leads to a directory above it" in (caught.value.hint or "")


def test_one_directory_that_holds_itself_is_a_link(store: Store) -> None:
    a, b = package(store, "a-1", {"up": (".",), "x": ""}), package(store, "b-1", {"up": {"y": ""}})
    found = environment_tree(environment([Element(a), Element(b)]).derivation.environment, store)
    below = found.entries["up"]
    assert isinstance(below, nar.Directory)
    assert below.entries == {"up": nar.Link(f"{a}/up"), "x": nar.Link(f"{a}/x"), "y": nar.Link(f"{b}/up/y")}


def test_an_empty_directory_that_two_packages_have_clashes_with_a_file(store: Store, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"a-1": {"x": {".hidden": ""}}, "b-1": {"x": {}}, "c-1": {"x": "file"}}
    packages = [package(store, name, content) for name, content in parts.items()]
    plan = environment([Element(one, number) for number, one in enumerate(packages)])
    with pytest.raises(CollisionError, match="own x, one as a file and one as a directory: a 1 and c 1"):
        build_environment(plan.derivation.environment, store, str(tmp_path / "out"))


# --- bad variables, odd packages --------------------------------------------------------------------------------------

BAD = ["true", "true x 1 /p", "true 5 2 /nix/store/" + "a" * 32 + "-a", "true 5 1 /etc", "true 5 1 relative"]


@pytest.mark.parametrize("text", BAD)
def test_variables_that_nix_env_would_not_write_are_refused(text: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        build_environment({"derivations": text, "manifest": "/nix/store/m"}, store, str(tmp_path / "out"))


def test_a_missing_manifest_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="'manifest' is missing"):
        build_environment({"derivations": ""}, store, str(tmp_path / "out"))


def test_an_inactive_package_is_not_linked(store: Store, tmp_path: Path) -> None:
    one, two = package(store, "a-1"), package(store, "b-1")
    text = f"false 5 1 {one} true 5 1 {two}"
    build_environment({"derivations": text, "manifest": "/m"}, store, str(tmp_path / "out"))
    assert os.readlink(tmp_path / "out/bin") == f"{two}/bin"


def test_a_missing_package_is_an_error(store: Store, tmp_path: Path) -> None:
    plan = environment([Element(path("a-1"))])
    with pytest.raises(BuildError, match="a-1 is not in the store"):
        build_environment(plan.derivation.environment, store, str(tmp_path / "out"))


def test_a_circle_of_links_ends_in_an_error(store: Store, tmp_path: Path) -> None:
    one = package(store, "a-1", {"x": ("y",), "y": ("x",)})
    plan = environment([Element(one)])
    with pytest.raises(BuildError, match="Too many levels"):
        build_environment(plan.derivation.environment, store, str(tmp_path / "out"))


def test_what_is_left_out_is_told(store: Store, tmp_path: Path) -> None:
    one = package(store, "a-1", {"x": ("nowhere",), "y": "y"})
    two = package(store, "b-1", "a file")
    told: list[str] = []
    plan = environment([Element(one), Element(two)])
    build_environment(plan.derivation.environment, store, str(tmp_path / "out"), told.append)
    assert sorted(told) == sorted(
        [
            f"{one}/x is a dangling link: left out of the environment",
            f"{two} is not a directory: left out of the environment",
        ]
    )


# --- manifests read back ----------------------------------------------------------------------------------------------


def test_our_own_manifest_names_its_packages(store: Store) -> None:
    a, b = package(store, "a-1.0"), package(store, "b-1.0")
    plan = environment([Element(b, 3), Element(a)])
    assert manifest_packages(store, realise_environment(store, plan)) == (a, b)
    assert manifest_packages(store, make_environment(store)) == ()


def test_a_manifest_with_every_kind_of_value_is_read(store: Store) -> None:
    text = (
        '[ { meta = { description = "with \\"quotes\\", a \\${dollar} and a\\nnewline"; priority = 3; '
        'x = [ 1 true 1.5 -2 false ]; "odd name" = null; }; '
        f'name = "a"; out = {{ outPath = "{path("a")}"; }}; dev = {{ outPath = "{path("a-dev")}"; }}; '
        f'outPath = "{path("a")}"; outputs = [ "out" "dev" ]; system = "x86_64-linux"; type = "derivation"; }} ]'
    )
    made = package(store, "env", {"manifest.nix": text})
    assert manifest_packages(store, made) == (path("a"), path("a-dev"))


PROFILES = {
    2: '{"elements": [{"active": true, "storePaths": ["PATH"]}], "version": 2}',
    3: '{"elements": {"a": {"active": true, "storePaths": ["PATH"]}}, "version": 3}',
}


@pytest.mark.parametrize("version", PROFILES)
def test_a_manifest_of_nix_profile_is_read(version: int, store: Store) -> None:
    made = package(store, "env", {"manifest.json": PROFILES[version].replace("PATH", str(path("a")))})
    assert manifest_packages(store, made) == (path("a"),)


UNREADABLE = [
    "",
    "[",
    "[ ] x",
    "{ }",
    "[ { } ]",
    "[ 1 ]",
    '[ { outPath = "/etc"; } ]',
    '[ { outPath = "unfinished',
    "[ { a = ; } ]",
    "[ { a b } ]",
    "[ f x ]",
    "[" * 100_000,
    "[ { a = " * 5000,
]


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_manifest_that_cannot_be_understood_names_nothing(text: str, store: Store) -> None:
    assert manifest_packages(store, package(store, "env", {"manifest.nix": text})) == ()


def test_a_path_without_manifest_names_nothing(store: Store) -> None:
    assert manifest_packages(store, package(store, "a-1.0")) == ()
    assert manifest_packages(store, path("not-there")) == ()
    assert manifest_packages(store, package(store, "b-1.0", {"manifest.nix": ("/etc/passwd",)})) == ()
