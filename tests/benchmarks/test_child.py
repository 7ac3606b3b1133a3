"""What the benchmarks time of ours does what Nix's command does: each verb once, on little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.exporting import export_paths
from reconciler.core.store.store import Store
from tests.benchmarks import material, recipes
from tests.benchmarks.child import VERBS
from tests.benchmarks.packages import SANDBOX_PATHS, expression, require_equal
from tests.benchmarks.store import CHILD, SOURCE
from tests.oracle import RealNix
from tests.packages.channel import ChannelMaker

pytestmark = pytest.mark.nix


def ours(verb: str, *arguments: object, stdin: bytes = b"", flags: tuple[str, ...] = ("-I", "-S")) -> bytes:
    command = [sys.executable, *flags, str(CHILD), str(SOURCE), verb, *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, env={}, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stderr.rpartition(b"peak ")[2]) > 1000
    return done.stdout


def test_dump_restore_and_hash_are_those_of_nix(nix: RealNix, tmp_path: Path) -> None:
    tree = material.tree(tmp_path / "tree", 50, 10**6)
    archive = ours("dump", tree)
    assert archive == nix.run("nix-store", "--dump", tree).stdout
    ours("restore", tmp_path / "out", stdin=archive)
    assert nar.hash_path(str(tmp_path / "out")) == nar.hash_path(str(tree))
    assert ours("hash_tree", tree).decode().strip() == nix.output("nix-hash", "--type", "sha256", tree)


def test_what_is_added_and_imported_is_what_nix_adds(nix: RealNix, tmp_path: Path) -> None:
    files = material.small_files(tmp_path / "files", 5)
    theirs = nix.output("nix-store", "--add", *sorted(files.iterdir()))
    assert ours("add", tmp_path / "ours", files).decode().split() == theirs.split()
    stream = bytearray()
    with Store.open(str(tmp_path / "ours")) as store:
        export_paths(store, store.closure(store.valid(map(StorePath.parse, theirs.split()))), stream.extend)
    assert sorted(ours("import_stream", tmp_path / "imported", stdin=bytes(stream)).decode().split()) == sorted(
        theirs.split()
    )
    RealNix(tmp_path / "imported").verify()


def test_closure_collection_and_environment_work_on_the_stores_made_for_them(tmp_path: Path, nix: RealNix) -> None:
    top = material.graph(nix.root, 30)
    assert sorted(ours("closure", nix.root, top).decode().split()) == sorted(
        nix.output("nix-store", "-qR", str(top)).split()
    )
    assert int(ours("collect", nix.root)) > 0
    paths = material.packages(nix.root, 3)
    (tmp_path / "listing").write_text("\n".join(map(str, paths)))
    made = ours("environment", nix.root, tmp_path / "listing").decode().strip()
    assert made == nix.output("nix-store", "-q", "--outputs", nix.output("nix-store", "-q", "--deriver", made))
    nix.verify()


def drvs(root: Path) -> set[str]:
    return {path.name for path in (root / "nix/store").glob("*.drv")}


@pytest.mark.parametrize("packages", [recipes.many(30), recipes.builds(9)])
def test_the_recipes_and_the_expression_are_the_same_derivations(
    packages: list[recipes.Package], nix: RealNix, tmp_path: Path
) -> None:
    written, root = recipes.write(tmp_path, packages), tmp_path / "ours"
    made = ours("instantiate", root, written.project, written.inventory, recipes.TOP, flags=("-I",)).decode().strip()
    assert made == nix.output("nix-instantiate", *map(str, expression(written)))
    assert drvs(root) == drvs(nix.root)
    assert len(drvs(root)) == sum(2 if package.url else 1 for package in packages)
    RealNix(root).verify()


def test_what_is_realised_is_what_nix_builds(tmp_path: Path) -> None:
    written, root = recipes.write(tmp_path, recipes.builds(6)), tmp_path / "ours"
    made = ours("instantiate", root, written.project, written.inventory, recipes.TOP, flags=("-I",)).decode().strip()
    oracle = RealNix(tmp_path / "oracle", sandbox=True, config=f"sandbox-paths = {SANDBOX_PATHS}")
    oracle.output("nix-instantiate", *map(str, expression(written)))
    outputs = ours("realise", root, 2, made).decode().split()
    assert outputs == oracle.output("nix-store", "--realise", "-j2", made).split()
    question = ("nix-store", "--query", "--hash", *outputs)
    assert RealNix(root).output(*question) == oracle.output(*question)
    RealNix(root).verify()


def test_a_graph_that_is_not_the_same_on_both_sides_is_not_measured(tmp_path: Path) -> None:
    roots = tmp_path / "one", tmp_path / "two"
    for root in roots:
        (root / "nix/store").mkdir(parents=True)
        (root / "nix/store/same.drv").touch()
    require_equal(*roots, "*.drv")
    (roots[1] / "nix/store/more.drv").touch()
    with pytest.raises(SystemExit, match=r"1 store paths are made by one side alone, as more\.drv"):
        require_equal(*roots, "*.drv")


def test_what_is_substituted_is_what_nix_substitutes(tmp_path: Path) -> None:
    channel = ChannelMaker(tmp_path)
    library = channel.build("library-1.0", nar.File(b"library"))
    program = channel.build("program-1.0", nar.File(str(library).encode()), library)
    channel.publish()
    (tmp_path / "listing").write_text(str(program))
    cache = f"file://{channel.cache}"
    assert ours("substitute", tmp_path / "ours", cache, channel.key, tmp_path / "listing") == f"{program}\n".encode()
    config = f"substituters = {cache}\ntrusted-public-keys = {channel.key}"
    theirs, mine = RealNix(tmp_path / "theirs", substitute=True, config=config), RealNix(tmp_path / "ours")
    theirs.run("nix-store", "--realise", str(program))
    assert mine.output("nix-store", "--dump-db") == theirs.output("nix-store", "--dump-db")
    mine.verify()


def test_no_verb_is_left_out() -> None:
    text = Path(__file__).read_text()
    assert [verb for verb in VERBS if f'ours("{verb}"' not in text] == []
    assert ours("start") == b""
