"""Every way in which a store rots is found and named; and what is only being worked on is not."""

from __future__ import annotations

import ast
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import derivation, nar, store_path
from reconciler.core.nix.derivation import Derivation, Output
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import verify as verifying
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.core.store.verify import Finding, VerifyEvent, verify
from tests.core.nix.trees import TREE
from tests.core.store import rot
from tests.core.store.parts import Halting
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at a second time is so without a pause, but where a test is about that."""
    monkeypatch.setattr(verifying, "_SETTLE", 0.0)


@pytest.fixture
def tree(store: Store) -> StorePath:
    store.add_text("other", b"x")
    return store.add_tree("tree", TREE)


def kinds(store: Store, contents: bool = True) -> list[tuple[str, str]]:
    return [(found.path, found.kind) for found in verify(store, contents).findings]


def only(store: Store) -> Finding:
    (finding,) = verify(store).findings
    return finding


# --- contents and form ------------------------------------------------------------------------------------------------


def test_a_store_that_is_right_has_no_findings(store: Store, tree: StorePath, nix: RealNix) -> None:
    before = snapshot(store)
    told: list[VerifyEvent] = []
    result = verify(store, on_event=told.append)
    sizes = {
        str(info.path): info.nar_size for info in store.infos(store.closure([row_path(row) for row in rows(store)]))
    }
    assert (result.checked, result.bytes, result.findings) == (2, sum(sizes.values()), ())
    assert {event.path: event.size for event in told} == sizes
    assert {event.kind for event in told} == {"path"}
    assert snapshot(store) == before
    nix.verify()


def rows(store: Store) -> list[tuple[str]]:
    connection = sqlite3.connect(f"{store.state_dir}/db/db.sqlite")
    try:
        return list(connection.execute("select path from ValidPaths"))
    finally:
        connection.close()


def row_path(row: tuple[str]) -> StorePath:
    return StorePath.parse(row[0])


def snapshot(store: Store) -> dict[str, tuple[int, int, float]]:
    """Every file below the root but the database's own, with its mode and times."""
    found = {}
    for directory, _, names in os.walk(store.root):
        for name in [".", *names]:
            status = os.lstat(os.path.join(directory, name))
            if "/db" not in directory and "temproots" not in directory:
                found[os.path.join(directory, name)] = (status.st_ino, status.st_mode, status.st_mtime)
    return found


@pytest.mark.parametrize("fault", rot.CONTENTS.values(), ids=rot.CONTENTS.keys())
def test_contents_that_are_not_those_registered_are_found(fault: rot.Fault, store: Store, tree: StorePath) -> None:
    fault(Path(store.real(tree)))
    assert (str(tree), "changed") in kinds(store)
    assert all(found.repairable and found.path == str(tree) for found in verify(store).findings)
    assert verify(store, contents=False).findings == ()
    assert [found.kind for found in verify(store, paths=[tree]).findings][:1] == ["changed"]


@pytest.mark.parametrize("fault", rot.FORM.values(), ids=rot.FORM.keys())
def test_a_form_that_no_file_of_a_store_has_is_found(fault: rot.Fault, store: Store, tree: StorePath) -> None:
    fault(Path(store.real(tree)))
    finding = only(store)
    assert (finding.path, finding.kind, finding.repairable) == (str(tree), "mode", True)


@pytest.mark.root
@pytest.mark.parametrize("fault", rot.OWNER.values(), ids=rot.OWNER.keys())
def test_a_wrong_owner_is_found(fault: rot.Fault, store: Store, tree: StorePath) -> None:
    fault(Path(store.real(tree)))
    finding = only(store)
    assert (finding.path, finding.kind, finding.repairable) == (str(tree), "owner", True)
    assert finding.detail.endswith("belongs to user 1234, not 0")


DETAILS: dict[Callable[[Path], None], str] = {
    rot.open_a_file: "'a' has mode 0644, not 0444",
    rot.make_a_file_setuid: "'run' has mode 4555, not 0555",
    rot.open_the_directory: "it has mode 0755, not 0555",
    rot.touch_a_file: "'a' was modified at 1700000000, not at 1",
    rot.mark_a_file: "'a' has the attribute 'user.note'",
}


@pytest.mark.parametrize(("fault", "detail"), DETAILS.items(), ids=[fault.__name__ for fault in DETAILS])
def test_the_file_and_what_is_wrong_with_it_are_named(
    fault: rot.Fault, detail: str, store: Store, tree: StorePath
) -> None:
    fault(Path(store.real(tree)))
    assert only(store).detail == detail


def test_many_files_of_one_kind_are_one_finding(store: Store, tree: StorePath) -> None:
    for name in ("a", "empty", "run"):
        Path(store.real(tree), name).chmod(0o755 if name == "run" else 0o644)
    assert only(store).detail.endswith(", and 2 more")


@pytest.mark.parametrize("node", [nar.File(b"text"), nar.Link("/elsewhere")], ids=["file", "link"])
def test_a_path_that_is_a_single_file_or_link_is_looked_at_too(node: nar.Node, store: Store, nix: RealNix) -> None:
    path = store.add_tree("one", node)
    real = Path(store.real(path))
    assert verify(store).findings == ()
    os.utime(real, (1, 5), follow_symlinks=False)
    assert only(store).kind == "mode"
    real.unlink()
    assert only(store).kind == "missing"
    real.symlink_to("/another")
    os.utime(real, (1, 1), follow_symlinks=False)
    assert only(store).kind == "changed"


def test_a_path_without_files_is_missing_and_stays_registered(store: Store, tree: StorePath) -> None:
    rot.lose_it_all(Path(store.real(tree)))
    assert kinds(store) == kinds(store, contents=False) == [(str(tree), "missing")]
    assert store.is_valid(tree)


def test_only_the_paths_that_are_asked_for_are_looked_at(store: Store, tree: StorePath) -> None:
    other = store.add_text("right", b"1")
    rot.flip_a_bit(Path(store.real(tree)))
    Path(store.store_dir, "garbage").touch()
    assert verify(store, paths=[other]).findings == ()
    assert [found.path for found in verify(store, paths=[other, tree]).findings] == [str(tree)]
    absent = StorePath("0" * 32, "absent")
    with pytest.raises(StoreError, match=f"{absent} is not valid"):
        verify(store, paths=[other, absent])


# --- what lies in the store directory ---------------------------------------------------------------------------------


def test_entries_that_are_registered_nowhere_are_found(store: Store, tree: StorePath) -> None:
    names = [
        "00000000000000000000000000000000-left",
        "garbage",
        ".tmp-link-1-2",
        "00000000000000000000000000000000-x.lock",
    ]
    for name in names:
        Path(store.store_dir, name).touch()
    found = verify(store).findings
    assert [Path(each.path).name for each in found] == sorted(names)
    assert {(each.kind, each.repairable) for each in found} == {("unregistered", False)}


def test_names_of_any_bytes_can_be_printed(store: Store) -> None:
    Path(store.store_dir, os.fsdecode(b"b\xffd")).touch()
    assert only(store).path.encode() == b"/nix/store/b\\xffd"


def test_rotten_links_are_found(store: Store, nix: RealNix) -> None:
    for name in ("one", "two"):
        store.add_tree(name, nar.Directory({"f": nar.File(b"the same" * 100)}))
    nix.run("nix-store", "--optimise")
    assert verify(store).findings == ()
    (entry,) = Path(store.store_dir, ".links").iterdir()
    with rot.unlocked(entry):
        entry.write_bytes(b"another!" * 100)
    os.utime(entry, (1, 1))
    found = verify(store).findings
    assert sorted(each.kind for each in found) == ["changed", "changed", "links"]
    assert next(each.path for each in found if each.kind == "links") == f"/nix/store/.links/{entry.name}"
    (entry.parent / "rubbish").touch()
    assert ("/nix/store/.links/rubbish", "links") in kinds(store)


# --- the database -----------------------------------------------------------------------------------------------------


def test_a_reference_that_is_not_registered_is_found(store: Store, nix: RealNix) -> None:
    dep = store.add_text("dep", b"1")
    top = store.add_text("top", b"2", [dep])
    rot.change_database(store.state_dir, f"delete from ValidPaths where path = '{dep}'")
    store.close()  # which kept what is no longer registered
    assert kinds(store) == [(str(dep), "unregistered"), (str(top), "reference")]


BAD_ROWS = {
    "a hash that is none": "update ValidPaths set hash = 'sha256:xyz'",
    "a hash of another kind": f"update ValidPaths set hash = 'md5:{'0' * 32}'",
    "a size of nothing": "update ValidPaths set narSize = 0",
    "another size": "update ValidPaths set narSize = narSize + 8",
    "a deriver that is no path": "update ValidPaths set deriver = '/etc/passwd'",
    "an address that does not hold": f"update ValidPaths set ca = 'text:sha256:{Hash.sha256(b'').base32}'",
    "an address that is none": "update ValidPaths set ca = 'rubbish'",
    "an address of another path": "update ValidPaths set ca = (select 'fixed:r:' || substr(ca, 6) from ValidPaths)",
}


@pytest.mark.parametrize("change", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_row_that_cannot_be_right_is_found(change: str, store: Store) -> None:
    path = store.add_text("text", b"1")
    rot.change_database(store.state_dir, change)
    finding = only(store)
    assert (finding.path, finding.kind, finding.repairable) == (str(path), "database", False)


def test_a_row_of_what_is_no_store_path_is_found(store: Store, tree: StorePath) -> None:
    rot.change_database(store.state_dir, "update ValidPaths set path = '/etc/passwd' where path like '%-other'")
    assert ("/etc/passwd", "database") in kinds(store)


def test_rows_that_belong_to_no_path_are_found(store: Store, tree: StorePath) -> None:
    rot.change_database(store.state_dir, "insert into DerivationOutputs values (77, 'out', '/nix/store/x')")
    finding = only(store)
    assert (Path(finding.path).name, finding.kind) == ("db.sqlite", "database")
    assert finding.detail == "DerivationOutputs: 1 row of paths that are not registered"


def test_a_database_that_sqlite_finds_damaged_is_found(store: Store) -> None:
    with store.batch() as batch:
        paths = [batch.add_text(f"p{number}", b"") for number in range(200)]
    store.close()
    rot.change_database(store.state_dir, "vacuum")
    file = Path(store.state_dir, "db/db.sqlite")
    data = bytearray(file.read_bytes())
    place = data.rindex(str(paths[100]).encode())
    data[place : place + 20] = b"\xff" * 20
    file.write_bytes(data)
    with Store.open(store.root) as again:
        found = [each for each in verify(again).findings if each.kind == "database"]
    assert found
    assert all(not each.repairable for each in found)


def test_a_database_that_is_none_is_found(store: Store, tree: StorePath) -> None:
    store.close()
    Path(store.state_dir, "db/db.sqlite").write_bytes(b"no database" * 1000)
    with Store.open(store.root) as again:
        finding = only(again)
    assert (finding.kind, "not a database" in finding.detail) == ("database", True)


def drv(store: Store) -> StorePath:
    plain = Derivation({"out": Output(None)}, {}, (), "x86_64-linux", "/bin/sh", (), {"name": "x"})
    return store.write_derivation(derivation.with_outputs(plain, "x", store.read_derivation), "x")


@pytest.mark.parametrize(
    "change",
    [
        "delete from DerivationOutputs",
        "update DerivationOutputs set id = 'lib'",
        f"update DerivationOutputs set path = '/nix/store/{'0' * 32}-x'",
    ],
)
def test_outputs_that_do_not_follow_from_their_derivation_are_found(change: str, store: Store) -> None:
    path = drv(store)
    assert verify(store).findings == ()
    rot.change_database(store.state_dir, change)
    finding = only(store)
    assert (finding.path, finding.kind) == (str(path), "database")
    assert "not those that follow from it" in finding.detail


def test_a_derivation_whose_text_says_other_outputs_is_found(store: Store) -> None:
    """Its hash and its address are right: only the outputs themselves can tell."""
    wrong = Derivation({"out": Output(StorePath("0" * 32, "x"))}, {}, (), "x86_64-linux", "/bin/sh", (), {"name": "x"})
    path = store.add_text("x.txt", wrong.serialise())
    real = store_path.text_path("x.drv", wrong.serialise())
    os.rename(store.real(path), store.real(real))
    rot.change_database(
        store.state_dir,
        f"update ValidPaths set path = '{real}'",
        f"insert into DerivationOutputs values (1, 'out', '/nix/store/{'0' * 32}-x')",
    )
    assert [(each.path, each.kind) for each in verify(store).findings] == [(str(real), "database")]


OF_NIX = {
    "several outputs": 'derivation { name = "x"; system = "x86_64-linux"; builder = "b"; outputs = [ "out" "dev" ]; }',
    "structured attributes": 'derivation { name = "x"; system = "s"; builder = "b"; __structuredAttrs = true; a = 1; }',
    "a fixed output": """derivation {
        name = "x"; system = "s"; builder = "b"; outputHashMode = "flat"; outputHashAlgo = "md5";
        outputHash = "b1946ac92492d2347c6235b4d2611184";
    }""",
    "outputs that are known only when they are built": """
        let known = derivation {
            name = "x"; system = "s"; builder = "b"; __contentAddressed = true;
            outputHashMode = "recursive"; outputHashAlgo = "sha256";
        }; in [ known (derivation { name = "y"; system = "s"; builder = "b"; inherit known; }) ]
    """,
}


@pytest.mark.parametrize("expression", OF_NIX.values(), ids=OF_NIX.keys())
def test_derivations_of_nix_are_right(expression: str, store: Store, nix: RealNix) -> None:
    store.close()  # for experimental outputs Nix changes the tables, and waits until nobody else has them open
    nix.run("nix-instantiate", "--extra-experimental-features", "ca-derivations", "-E", expression)
    assert verify(store).findings == ()
    nix.verify()


# --- what is being worked on ------------------------------------------------------------------------------------------


def test_a_path_that_is_being_added_is_no_finding(store: Store, nix: RealNix) -> None:
    data = nar.encode(TREE)
    path = store_path.source_path("tree", Hash.sha256(data))
    stream = Halting(data)
    adding = threading.Thread(target=store.add_nar, args=(PathInfo(path, Hash.sha256(data), len(data), ()), stream))
    adding.start()
    assert stream.reached.wait(30)
    with Store.open(store.root) as other:
        assert verify(other).findings == ()
    stream.go_on.set()
    adding.join()
    assert verify(store).findings == ()
    nix.verify()


def test_what_another_process_holds_locked_is_no_finding(store: Store) -> None:
    """Also without a temporary root: a build's directory, an output that is being made."""
    directory = Path(store.store_dir, "tmp-77-0")
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    fs.flock(fd, exclusive=True)
    with fs.FileLock(f"{store.store_dir}/{'0' * 32}-out.lock"):
        Path(store.store_dir, f"{'0' * 32}-out").touch()
        assert verify(store).findings == ()
    os.close(fd)
    assert len(verify(store).findings) == 3


def test_what_a_collection_is_about_to_delete_is_no_finding(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.core.store import strangers

    monkeypatch.setattr(strangers, "_PATIENCE", 0.2)
    Path(store.store_dir, f"{'0' * 32}-dead").touch()
    with fs.FileLock(f"{store.state_dir}/gc.lock"):
        assert verify(store).findings == ()
    assert len(verify(store).findings) == 1


CHURN = """
import sys
from reconciler.core.store.store import Store
for turn in range(12):
    with Store.open(sys.argv[1]) as store, store.batch() as batch:
        for number in range(15):
            batch.add_text(f"p{turn}-{number}", bytes(10_000))
"""


DISTURB = """
import sys
from reconciler.core.store import gc, optimise, store
while True:
    with store.Store.open(sys.argv[1]) as opened:
        optimise.optimise(opened)
    with store.Store.open(sys.argv[1]) as opened:
        gc.collect(opened, gc.GcOptions())
"""


def test_nothing_is_found_in_a_right_store_while_others_add_collect_and_optimise(
    store: Store, nix: RealNix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of ours and one of Nix's are at work all the while."""
    monkeypatch.undo()
    store.add_root("kept", store.add_tree("tree", TREE))
    disturbing, churning = (
        subprocess.Popen([sys.executable, "-c", code, store.root], cwd=ROOT, stderr=subprocess.DEVNULL)
        for code in (DISTURB, CHURN)
    )
    found: set[Finding] = set()

    def look() -> None:
        while churning.poll() is None:
            with Store.open(store.root) as other:
                found.update(verify(other).findings)

    looking = threading.Thread(target=look)
    looking.start()
    while churning.poll() is None:
        # Unchecked: a collection fails when any process of the machine has a file open whose name is too long.
        nix.run("nix-store", "--gc", check=False)
        nix.run("nix-store", "--optimise", check=False)
    looking.join()
    disturbing.kill()
    disturbing.wait()
    assert churning.returncode == 0
    assert found == set()
    nix.verify()


def test_a_path_that_is_put_right_in_between_is_no_finding(store: Store, tree: StorePath) -> None:
    """The first look sees it broken; the second one, which counts, does not."""
    real = Path(store.real(tree))
    rot.open_a_file(real)

    def mend(event: VerifyEvent) -> None:
        if event.path == str(tree):
            (real / "a").chmod(0o444)

    assert verify(store, on_event=mend).findings == ()


def test_a_path_that_is_deleted_in_between_is_no_finding(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row was read when it was valid; row and files are gone when the files are looked at."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    first, second = sorted((store.add_text("one", b"1"), store.add_text("two", b"2")))

    def delete(event: VerifyEvent) -> None:
        if event.path == str(first):
            rot.change_database(store.state_dir, f"delete from ValidPaths where path = '{second}'")
            os.unlink(store.real(second))

    assert verify(store, on_event=delete).findings == ()


# --- large stores -----------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.core.store import database, strangers

    monkeypatch.setattr(database, "_AT_ONCE", 20)
    monkeypatch.setattr(strangers, "_AT_ONCE", 20)
    # One worker: how much is in hand at a time is not a matter of which of several is ahead.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    verify(store)
    peaks = []
    for start in (0, 150):
        with store.batch() as batch:
            for number in range(start, start * 3 + 150):
                batch.add_text(f"p{number}", b"")
        tracemalloc.start()
        assert verify(store).findings == ()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5


def test_several_threads_find_what_one_finds(store: Store, tree: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        path = store.add_text(f"p{number}", b"")
        if number % 3:
            os.utime(store.real(path), (1, 2))
    found = {}
    for processors in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, count=processors: set(range(count)))
        found[processors] = verify(store)
    assert found[1] == found[3]
    assert len(found[1].findings) == 20


@pytest.mark.root
def test_whoever_may_only_read_a_store_can_verify_it() -> None:
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        with Store.open(root, create=True) as store:
            tree = store.add_tree("tree", TREE)
        rot.flip_a_bit(Path(store.real(tree)))
        assert as_nobody(lambda: kinds(Store.open(root))) == [(str(tree), "changed")]


def as_nobody(function: Callable[[], object]) -> object:
    """What `function` gives to a child that is user 65534."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, repr(function()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as said:
        told = said.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return ast.literal_eval(told.decode())


def test_a_bad_row_is_an_error_of_format() -> None:
    from reconciler.core.store.database import Row

    with pytest.raises(FormatError, match="must be text"):
        Row(b"\0", (None,) * 7, ()).info()
