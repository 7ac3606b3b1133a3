"""A store on disk, judged by real Nix wherever it was written to."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import derivation, nar, store_path
from reconciler.core.nix.derivation import Derivation, Output
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import content_address, files
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from tests.core.nix.trees import TREE, TREES, golden, write
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


def info_of(name: str, node: nar.Node, references: tuple[StorePath, ...] = ()) -> tuple[PathInfo, bytes]:
    """A path that nothing but its NAR's hash vouches for, as an output is, and its archive."""
    data = nar.encode(node)
    digest = hashlib.sha256(name.encode() + data).hexdigest()
    return PathInfo(store_path.output_path("out", digest, name), Hash.sha256(data), len(data), references), data


def add(store: Store, name: str, node: nar.Node, references: tuple[StorePath, ...] = ()) -> StorePath:
    info, data = info_of(name, node, references)
    store.add_nar(info, io.BytesIO(data))
    return info.path


# --- adding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_a_source_lies_where_nix_would_put_it(name: str, store: Store, nix: RealNix, tmp_path: Path) -> None:
    write(TREES[name], tmp_path / name)
    path = store.add_path(name, str(tmp_path / name))
    assert store.add_tree(name, TREES[name]) == path
    assert nix.output("nix-store", "--add", tmp_path / name) == str(path)
    assert b"".join(store.nar(path)) == golden(name)
    nix.verify()


def test_texts_and_their_references_are_registered_as_nix_registers_them(
    store: Store, nix: RealNix, tmp_path: Path
) -> None:
    dep = store.add_text("dep.txt", b"a text\n")
    greet = store.add_text("greet.txt", f"see {dep}\n".encode(), [dep])
    other = RealNix(tmp_path / "other")
    expression = 'builtins.toFile "greet.txt" "see ${builtins.toFile "dep.txt" "a text\\n"}\\n"'
    assert other.output("nix-instantiate", "--eval", "--read-write-mode", "-E", expression) == f'"{greet}"'
    assert rows(nix.root) == rows(other.root)
    assert nix.output("nix-store", "-qR", str(greet)).splitlines() == [str(dep), str(greet)]
    nix.verify()


def test_fixed_outputs_lie_where_nix_would_put_them(store: Store, nix: RealNix, tmp_path: Path) -> None:
    file = tmp_path / "hello.txt"
    write(nar.File(b"hello\n", executable=True), file)
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        content_hash = Hash(algorithm, hashlib.new(algorithm, b"hello\n").digest())
        path = store.add_fixed("hello.txt", str(file), content_hash)
        assert nix.output("nix-store", "--add-fixed", algorithm, file) == str(path)
        assert store.info(path).ca == f"fixed:{content_hash.nix}"
    with pytest.raises(StoreError, match="its hash is sha256-WJG1"):
        store.add_fixed("hello.txt", str(file), Hash.sha256(b"other"))
    nix.verify()


def rows(root: Path) -> list[tuple[object, ...]]:
    """What is registered, but for the time."""
    connection = sqlite3.connect(root / "nix/var/nix/db/db.sqlite")
    try:
        query = (
            "select v.path, v.hash, v.deriver, v.narSize, v.ultimate, v.sigs, v.ca, group_concat(r.path)"
            " from ValidPaths v left join Refs on referrer = v.id left join ValidPaths r on reference = r.id"
            " group by v.id order by v.path"
        )
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_the_tables_are_those_that_nix_makes(store: Store, tmp_path: Path) -> None:
    theirs = RealNix(tmp_path / "theirs")
    theirs.run("nix-store", "--init")

    def shape(root: Path) -> dict[str, list[object]]:
        connection = sqlite3.connect(root / "nix/var/nix/db/db.sqlite")
        try:
            names = [name for (name,) in connection.execute("select name from sqlite_master order by name")]
            pragmas = ("table_info", "foreign_key_list", "index_list", "index_info")
            found: dict[str, list[object]] = {
                f"{name} {pragma}": connection.execute(f"pragma {pragma}({name})").fetchall()
                for name in names
                for pragma in pragmas
            }
            found["journal"] = connection.execute("pragma journal_mode").fetchall()
            return found
        finally:
            connection.close()

    assert shape(Path(store.root)) == shape(theirs.root)
    assert (Path(store.state_dir) / "db/schema").read_bytes() == (theirs.root / "nix/var/nix/db/schema").read_bytes()


def test_everything_is_registered_and_told_again(store: Store, nix: RealNix) -> None:
    dep = add(store, "dep", nar.File(b"dep"))
    info, data = info_of("full", TREE, (dep,))
    own = tuple(sorted((dep, info.path)))
    info = replace(info, references=own, signatures=("a:YQ==", "b:Yg=="), ultimate=True, registered=12345, deriver=dep)
    store.add_nar(info, io.BytesIO(data))
    assert store.info(info.path) == info
    assert store.infos([info.path, dep]) == [info, store.info(dep)]
    assert store.referrers(dep) == {info.path}
    assert store.referrers(info.path) == {info.path}
    assert store.closure([info.path]) == [dep, info.path]
    assert set(nix.output("nix-store", "-q", "--references", str(info.path)).splitlines()) == set(map(str, own))
    nix.verify()


def test_paths_that_are_not_valid_are_said_to_be_so(store: Store, nix: RealNix) -> None:
    path = add(store, "there", nar.File(b"x"))
    absent = StorePath(path.hash_part, "absent")
    assert store.valid([path, absent]) == {path}
    assert (store.is_valid(path), store.is_valid(absent)) == (True, False)
    for ask in (store.info, store.read_derivation, store.nar, lambda p: store.closure([path, p])):
        with pytest.raises(StoreError, match=f"{absent} is not valid"):
            ask(absent)
    nix.verify()


def test_what_lies_in_the_store_unregistered_is_not_given_out(store: Store) -> None:
    path = StorePath.parse("/nix/store/00000000000000000000000000000000-secret")
    Path(store.real(path)).write_text("secret")
    with pytest.raises(StoreError, match="is not valid"):
        list(store.nar(path))


def test_a_large_closure_comes_references_first(store: Store, nix: RealNix) -> None:
    """More paths than one statement takes."""
    with store.batch() as batch:
        paths = [batch.add_text("leaf", b"")]
        for number in range(700):
            paths.append(batch.add_text(f"n{number}", str(number).encode(), paths[-3:]))
    closure = store.closure([paths[-1]])
    assert set(closure) == set(paths)
    place = {path: index for index, path in enumerate(closure)}
    assert all(place[reference] < place[path] for path in paths for reference in store.info(path).other_references)
    assert store.valid(paths) == set(paths)
    assert len(store.infos(paths)) == len(paths)
    assert nix.output("nix-store", "-qR", str(paths[-1])).count("\n") + 1 == len(paths)
    nix.verify()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_wrong_hash_size_or_archive_is_refused_and_leaves_nothing(store: Store, nix: RealNix) -> None:
    info, data = info_of("x", TREE)
    wrong: list[tuple[PathInfo, bytes]] = [
        (replace(info, nar_hash=Hash.sha256(b"")), data),
        (replace(info, nar_size=len(data) + 8), data + bytes(8)),
        (replace(info, nar_size=len(data) - 8), data),
        (info, data[:-8]),
        (info, data.replace(b"nix-archive-1", b"nix-archive-0")),
        (info, b""),
    ]
    for claimed, sent in wrong:
        with pytest.raises((StoreError, FormatError), match=str(info.path)):
            store.add_nar(claimed, io.BytesIO(sent))
        assert os.listdir(store.store_dir) == [".links"]
    store.add_nar(info, io.BytesIO(data))
    nix.verify()


def test_a_false_content_address_is_refused(store: Store, nix: RealNix) -> None:
    file, data = info_of("f", nar.File(b"hello\n"))
    text = Hash.sha256(b"hello\n").nix
    for ca in (
        f"text:{text}",
        f"fixed:{text}",
        f"fixed:r:{file.nar_hash.nix}",
        f"text:r:{text}",
        "rubbish",
        "fixed:r:",
    ):
        with pytest.raises((StoreError, FormatError)):
            store.add_nar(replace(file, ca=ca), io.BytesIO(data))
        assert os.listdir(store.store_dir) == [".links"]
    for ca, path in (
        (f"text:{text}", store_path.text_path("f", b"hello\n")),
        (f"fixed:{text}", store_path.fixed_path("f", Hash.sha256(b"hello\n"), recursive=False)),
        (f"fixed:r:{file.nar_hash.nix}", store_path.source_path("f", file.nar_hash)),
    ):
        store.add_nar(replace(file, path=path, ca=ca), io.BytesIO(data))
        with pytest.raises(StoreError, match="says sha256:"):
            store.add_nar(*other_contents(replace(file, path=StorePath("0" * 32, "f"), ca=ca)))
    nix.verify()


def other_contents(info: PathInfo) -> tuple[PathInfo, io.BytesIO]:
    data = nar.encode(nar.File(b"other"))
    return replace(info, nar_hash=Hash.sha256(data), nar_size=len(data)), io.BytesIO(data)


def test_a_content_address_over_a_self_reference_is_checked_as_nix_makes_it(
    store: Store, nix: RealNix, tmp_path: Path
) -> None:
    dep = add(store, "dep", nar.File(b"dep"))
    info, _ = info_of("self", nar.File(b""))
    text = f"me {info.path} {info.path} and {dep}" + "x" * 300000 + str(info.path)
    node = nar.Directory({"f": nar.File(text.encode()), "l": nar.Link(f"{info.path}/f")})
    data = nar.encode(node)
    info = PathInfo(info.path, Hash.sha256(data), len(data), (dep, info.path))
    store.add_nar(info, io.BytesIO(data))
    store.close()  # for this feature Nix changes the tables, and waits until nobody else has them open
    arguments = ("--extra-experimental-features", "nix-command ca-derivations", "store", "make-content-addressed")
    nix.run("nix", *arguments, str(info.path))
    made = [StorePath.parse(str(row[0])) for row in rows(nix.root) if str(row[0]).endswith("-self")]
    (addressed,) = set(made) - {info.path}
    found = store.info(addressed)
    assert found.ca.startswith("fixed:r:sha256:")
    content_address.check(found, store.real(addressed))
    with Store.open(str(tmp_path / "second"), create=True) as second:
        for path in store.closure([addressed]):
            second.add_nar(store.info(path), nar.ChunkReader(store.nar(path)))
    RealNix(tmp_path / "second").verify()
    lie = replace(found, ca=content_address.recursive(found.nar_hash))
    with pytest.raises(StoreError, match="says"):
        content_address.check(lie, store.real(addressed))
    nix.verify()


def test_a_path_with_a_missing_reference_is_not_registered(store: Store, nix: RealNix) -> None:
    absent = StorePath.parse("/nix/store/00000000000000000000000000000000-absent")
    info, data = info_of("x", TREE, (absent,))
    with pytest.raises(StoreError, match=f"{info.path} refers to {absent}, which is not valid"):
        store.add_nar(info, io.BytesIO(data))
    assert not store.is_valid(info.path)
    nix.verify()


def test_paths_that_refer_to_each_other_are_not_registered(store: Store, nix: RealNix) -> None:
    one, data = info_of("one", nar.File(b"1"))
    two, more = info_of("two", nar.File(b"2"), (one.path,))
    one = replace(one, references=(two.path,))
    batch = store.batch()
    batch.add_nar(one, io.BytesIO(data))
    batch.add_nar(two, io.BytesIO(more))
    with pytest.raises(StoreError, match="in a circle"):
        batch.commit()
    assert store.valid([one.path, two.path]) == set()
    nix.verify()


def test_within_a_batch_paths_may_come_in_any_order(store: Store, nix: RealNix) -> None:
    one, data = info_of("one", nar.File(b"1"))
    two, more = info_of("two", nar.File(b"2"), (one.path,))
    with store.batch() as batch:
        batch.add_nar(two, io.BytesIO(more))
        assert not store.is_valid(two.path)
        batch.add_nar(one, io.BytesIO(data))
    assert store.closure([two.path]) == [one.path, two.path]
    nix.verify()


def test_a_path_that_is_there_keeps_its_files_and_its_bytes_are_passed_over(store: Store, nix: RealNix) -> None:
    info, data = info_of("x", TREE)
    stream = io.BytesIO(data + data + b"next")
    with store.batch() as batch:
        assert batch.add_nar(info, stream)
        inode = os.lstat(store.real(info.path)).st_ino
        assert not batch.add_nar(info, stream)
    assert stream.read() == b"next"
    assert not store.batch().add_nar(info, io.BytesIO(data))
    with pytest.raises(FormatError, match="cut short"):
        store.batch().add_nar(info, io.BytesIO(data[:-1]))
    assert os.lstat(store.real(info.path)).st_ino == inode
    nix.verify()


@pytest.mark.parametrize("left", ["file", "directory", "link out"])
def test_leftovers_are_replaced_and_links_among_them_not_followed(
    left: str, store: Store, nix: RealNix, tmp_path: Path
) -> None:
    info, data = info_of("x", TREE)
    real = Path(store.real(info.path))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    if left == "file":
        real.write_text("half")
    elif left == "directory":
        (real / "a/b").mkdir(parents=True)
        (real / "a").chmod(0o555)
    else:
        real.symlink_to(tmp_path / "outside")
    store.add_nar(info, io.BytesIO(data))
    assert (tmp_path / "outside/kept").read_text() == "kept"
    assert not real.is_symlink()
    nix.verify()


# --- taking over ------------------------------------------------------------------------------------------------------


def unpack_only(store: Store, info: PathInfo, data: bytes) -> None:
    with store.directory() as fd:
        nar.restore(io.BytesIO(data), fd, info.path.base_name)


def test_a_whole_leftover_is_adopted(store: Store, nix: RealNix) -> None:
    info, data = info_of("x", TREE)
    unpack_only(store, info, data)
    os.chmod(store.real(info.path), 0o755)
    inode = os.lstat(store.real(info.path)).st_ino
    with store.batch() as batch:
        assert batch.adopt(info)
        assert not store.is_valid(info.path)
    assert store.is_valid(info.path)
    assert os.lstat(store.real(info.path)).st_ino == inode
    assert stat.S_IMODE(os.lstat(store.real(info.path)).st_mode) == 0o555
    assert store.batch().adopt(info)
    nix.verify()


@pytest.mark.parametrize("fault", ["absent", "truncated", "extra", "executable", "fifo"])
def test_a_leftover_that_is_not_whole_is_not_adopted_but_sent_again(fault: str, store: Store, nix: RealNix) -> None:
    info, data = info_of("x", TREE)
    real = Path(store.real(info.path))
    if fault != "absent":
        unpack_only(store, info, data)
        real.chmod(0o755)
    if fault == "truncated":
        (real / "a").chmod(0o644)
        (real / "a").write_bytes(b"")
    elif fault == "extra":
        (real / "b").write_text("x")
    elif fault == "executable":
        (real / "a").chmod(0o555)
    elif fault == "fifo":
        os.mkfifo(real / "fifo")
    with store.batch() as batch:
        assert not batch.adopt(info)
        assert batch.add_nar(info, io.BytesIO(data))
    assert store.is_valid(info.path)
    assert sorted(os.listdir(store.store_dir)) == [".links", info.path.base_name]
    nix.verify()


# --- derivations ------------------------------------------------------------------------------------------------------


def simple(inputs: dict[StorePath, tuple[str, ...]], sources: tuple[StorePath, ...] = ()) -> Derivation:
    return Derivation(
        {"out": Output(None)}, inputs, sources, "x86_64-linux", "/bin/sh", ("-c", ": > $out"), {"name": "x"}
    )


def test_derivations_are_written_with_their_outputs_and_nix_takes_them(store: Store, nix: RealNix) -> None:
    source = store.add_text("source", b"x")
    base = derivation.with_outputs(simple({}, (source,)), "base", store.read_derivation)
    base_path = store.write_derivation(base, "base")
    top = derivation.with_outputs(simple({base_path: ("out",)}), "top", store.read_derivation)
    top_path = store.write_derivation(top, "top")
    assert store.read_derivation(top_path) == top
    assert store.derivation_outputs(top_path) == top.output_paths()
    assert store.derivers(top.output_paths()["out"]) == {top_path}
    assert nix.output("nix-store", "-q", "--outputs", str(top_path)) == str(top.output_paths()["out"])
    assert set(nix.output("nix-store", "-qR", str(top_path)).splitlines()) == {
        str(source),
        str(base_path),
        str(top_path),
    }
    nix.verify()


def test_a_derivation_is_read_up_to_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    drv = derivation.with_outputs(simple({}), "base", store.read_derivation)
    path = store.write_derivation(drv, "base")
    size = len(drv.serialise())
    monkeypatch.setattr(files, "MAX_DERIVATION", size)
    assert store.read_derivation(path) == drv
    monkeypatch.setattr(files, "MAX_DERIVATION", size - 1)
    with pytest.raises(StoreError) as error:
        store.read_derivation(path)
    assert error.value.message == f"{path}: a derivation of {size} bytes; {size - 1} are read at most"


def test_derivations_that_are_added_are_checked_without_being_read_again(
    store: Store, nix: RealNix, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[StorePath, Derivation] = {}
    for number in range(5):
        name = f"step-{number}"
        whole = derivation.with_outputs(simple(dict.fromkeys(made, ("out",))), name, made.__getitem__)
        made[whole.path(name)] = whole
    last = list(made)[-1]
    wrong = replace(made[last], environment={**made[last].environment, "out": ""})
    read: list[StorePath] = []
    parse = Store._parse_derivation

    def noted(self: Store, path: StorePath) -> Derivation:
        read.append(path)
        return parse(self, path)

    monkeypatch.setattr(Store, "_parse_derivation", noted)
    with store.batch() as batch:
        for path, drv in made.items():
            batch.add_derivation(drv, path.name.removesuffix(".drv"))
    assert not read
    with pytest.raises(StoreError, match="not those that follow from it"), store.batch() as batch:
        batch.add_derivation(wrong, "step-4")
    assert nix.output("nix-store", "-qR", str(last)).split() != []
    nix.verify()


def test_a_derivation_with_an_output_that_is_not_its_own_is_refused(store: Store, nix: RealNix) -> None:
    other = StorePath.parse("/nix/store/00000000000000000000000000000000-base")
    right = derivation.with_outputs(simple({}), "base", store.read_derivation)
    with pytest.raises(FormatError, match="not known"):
        store.write_derivation(simple({}), "base")
    for wrong in (
        replace(right, outputs={"out": Output(other)}),
        replace(right, environment={**right.environment, "out": str(other)}),
    ):
        with pytest.raises(StoreError, match="not those that follow from it"):
            store.write_derivation(wrong, "base")
    store.write_derivation(right, "base")
    nix.verify()


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        Store.open(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("directory", ["nix", "nix/store"])
def test_a_store_is_not_made_behind_a_link(directory: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / directory).parent.mkdir(exist_ok=True)
    (tmp_path / directory).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link"):
        Store.open(str(tmp_path), create=True)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("version", "told"), [(b"11", "newer than this program"), (b"9", "no schema"), (b"10\n", "no schema")]
)
def test_another_schema_is_refused_by_name(version: bytes, told: str, store: Store) -> None:
    Path(store.state_dir, "db/schema").write_bytes(version)
    with Store.open(store.root) as again, pytest.raises(StoreError, match=told):
        again.valid([])


def test_a_store_of_nix_is_opened_and_added_to(store_root: Path, nix: RealNix) -> None:
    nix.run("nix-store", "--init")
    with Store.open(str(store_root), create=True) as store:
        path = store.add_tree("tree", TREE)
        assert list((store_root / "nix/var/nix/temproots").iterdir()) != []
    assert nix.output("nix-store", "-qR", str(path)) == str(path)
    assert list((store_root / "nix/var/nix/temproots").iterdir()) == []
    nix.verify()


def test_only_a_question_to_the_database_loads_sqlite() -> None:
    code = (
        "import sys; from reconciler.core.store.store import Store; Store('/nowhere').close();"
        "print([name for name in ('sqlite3', 'ctypes', 'socket') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
