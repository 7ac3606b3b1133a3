"""Stores prepared with roots and garbage of every kind, for collectors to be compared on.

A scene is given an open store and a directory beside it, makes its paths, and may give back what runs while garbage is
looked for (ended by its `close`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Derivation, Output, with_outputs
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store

SOURCE = Path(__file__).parents[3]
Running = contextlib.ExitStack
Scene = Callable[[Store, Path], "Running | None"]
HASH = "0" * 32


def gcroots(store: Store) -> Path:
    return Path(store.state_dir, "gcroots")


def add(
    store: Store,
    path: StorePath,
    references: tuple[StorePath, ...] = (),
    deriver: StorePath | None = None,
    node: nar.Node | None = None,
) -> StorePath:
    """A path of any name, with any references: as if it had been built."""
    archive = nar.encode(node or nar.File(str(path).encode()))
    info = PathInfo(path, Hash.sha256(archive), len(archive), references, deriver=deriver)
    store.add_nar(info, nar.ChunkReader(iter((archive,))))
    return path


def built(store: Store, name: str, inputs: Mapping[StorePath, tuple[str, ...]] | None = None) -> tuple[StorePath, ...]:
    """A derivation with the outputs `out` and `dev`, and those two: (drv, out, dev)."""
    blank = Derivation(
        {"out": Output(None), "dev": Output(None)}, inputs or {}, (), "x86_64-linux", "/bin/sh", (), {"name": name}
    )
    drv = store.write_derivation(with_outputs(blank, name, store.read_derivation), name)
    outputs = store.derivation_outputs(drv)
    return (drv, *(add(store, outputs[each], deriver=drv) for each in ("out", "dev")))


def direct_links(store: Store, beside: Path) -> None:
    leaf = store.add_text("leaf", b"1")
    top = store.add_text("top", b"2", [leaf])
    inside = store.add_tree("inside", nar.Directory({"bin": nar.Directory({"x": nar.File(b"x")})}))
    nested = store.add_text("nested", b"3")
    profile = store.add_text("profile", b"4", [top])
    store.add_text("garbage", b"5", [leaf])
    store.add_text("referrer", b"6", [top])
    store.add_root("a", top)
    store.add_root("some/deeper/directory/x", nested)
    (gcroots(store) / "subpath").symlink_to(f"{inside}/bin/x")
    (gcroots(store) / "nowhere").symlink_to(f"{store.add_text('subpath', b'7')}/does/not/exist")
    Path(store.state_dir, "profiles/p-1-link").symlink_to(str(profile))
    Path(store.state_dir, "profiles/p").symlink_to("p-1-link")
    per_user = Path(store.state_dir, "profiles/per-user/alice")
    per_user.mkdir()
    (per_user / "profile-7-link").symlink_to(str(store.add_text("alice", b"8")))


def links_that_are_no_roots(store: Store, beside: Path) -> None:
    """Of another store, of the physical path, of the store itself, odd spellings, and behind a directory's link."""
    path = store.add_text("x", b"1")
    for number, target in enumerate(
        (
            f"/gnu{path}",
            store.real(path),
            "/nix/store",
            "/nix/store/",
            f"/nix/store//{path.base_name}",
            f"/nix/store/../store/{path.base_name}",
            f"/nix/storefront/{path.base_name}",
            f"nix/store/{path.base_name}",
            f"/nix/store/{path.base_name[:20]}",
        )
    ):
        (gcroots(store) / f"link{number}").symlink_to(target)
    (beside / "behind").mkdir()
    (beside / "behind/link").symlink_to(str(path))
    (gcroots(store) / "directory").symlink_to(beside / "behind")


def indirect_roots(store: Store, beside: Path) -> None:
    one, two, relative = (store.add_text(name, b"x") for name in ("one", "two", "relative"))
    (beside / "result").symlink_to(str(one))
    store.add_indirect_root(str(beside / "result"))
    (beside / "far").symlink_to(str(two))
    (beside / "near").symlink_to(beside / "far")
    store.add_indirect_root(str(beside / "near"))  # two steps: no root
    (gcroots(store) / "plain").symlink_to(str(relative))
    (gcroots(store) / "relative").symlink_to("./somewhere/../plain")
    (beside / "file").write_text("x")
    store.add_indirect_root(str(beside / "file"))


def dangling_links(store: Store, beside: Path) -> None:
    store.add_text("was rooted".replace(" ", "-"), b"x")
    store.add_indirect_root(str(beside / "gone"))
    (beside / "file").write_text("x")
    store.add_indirect_root(str(beside / "file/below"))
    (gcroots(store) / "dangling").symlink_to(beside / "gone")


def regular_files(store: Store, beside: Path) -> None:
    """A file with the name of a path is a root of it; what it holds has no meaning."""
    kept, not_kept = store.add_text("kept", b"x"), store.add_text("not-kept", b"y")
    (gcroots(store) / kept.base_name).touch()
    (gcroots(store) / "other").write_text(str(not_kept))
    (gcroots(store) / f"{HASH}-x").touch()
    (gcroots(store) / not_kept.base_name).mkdir()


def roots_of_invalid_paths(store: Store, beside: Path) -> None:
    (gcroots(store) / "invalid").symlink_to(f"/nix/store/{HASH}-x")
    Path(store.store_dir, f"{HASH}-x").write_text("not registered")
    store.add_root("valid", store.add_text("x", b"1"))


def a_living_and_a_dead_process(store: Store, beside: Path) -> Running:
    """Temporary roots: of a valid path, and of one that is being made, with the files beside it."""
    leaf = store.add_text("leaf", b"1")
    alive, dead = store.add_text("alive", b"2", [leaf]), store.add_text("dead", b"3")
    making = StorePath(HASH, "making")
    for name in ("making", "making.lock", "making.drv.chroot", "making-extra"):
        Path(store.store_dir, f"{HASH}-{name}").touch()
    Path(store.store_dir, f"{dead.base_name}.lock").touch()
    Path(store.state_dir, "temproots/999999").write_bytes(f"{dead}\0".encode())
    Path(store.state_dir, "temproots/.keep").touch()
    program = (
        "import sys; from reconciler.core.nix.store_path import StorePath;"
        "from reconciler.core.store.store import Store;"
        "s = Store.open(sys.argv[1]); s.add_temp_roots(StorePath.parse(x) for x in sys.argv[2:]);"
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, store.root, str(alive), str(making)]
    return _started(command, cwd=SOURCE)


def _started(command: list[str], **options: object) -> Running:
    """Once the process has written a line, until its input ends."""
    running = Running()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
    running.callback(process.wait)
    running.callback(process.stdout.close)
    running.callback(process.stdin.close)
    assert process.stdout.readline() == b"\n"
    return running


def environment_of_a_process(store: Store, beside: Path) -> Running:
    used, other = store.add_text("used", b"1"), store.add_text("other", b"2")
    store.add_text("garbage", b"3")
    variables = {"PATH": os.environ["PATH"], "A": f"x:{used}/bin:/nix/store/", "B": f"-I{other}=y"}
    return _started(["sh", "-c", "echo; read x"], env=variables)


def derivations(store: Store, beside: Path) -> None:
    """What made something that lives; what nobody needs; and what made only a part of what lives."""
    input_drv, *_ = built(store, "input")
    _, out, _ = built(store, "wanted", {input_drv: ("out",)})
    drv, *_ = built(store, "unwanted")
    kept_drv, *_ = built(store, "drv-alone")
    store.add_root("out", out)
    store.add_root("drv", kept_drv)
    store.add_text("users", b"x", [drv])


def derivers_that_do_not_fit(store: Store, beside: Path) -> None:
    """Two derivations say that they make one path: the one that is registered as its deriver is kept."""
    drv, out, _ = built(store, "made")
    other, *_ = built(store, "other")
    again = StorePath("1" * 32, "again")
    add(store, again, (out,))
    store.add_root("again", again)
    store._database.register([], {})
    import sqlite3

    with contextlib.closing(sqlite3.connect(f"{store.state_dir}/db/db.sqlite")) as connection:
        connection.execute(
            "insert or replace into DerivationOutputs (drv, id, path)"
            " select id, 'lib', ? from ValidPaths where path = ?",
            (str(out), str(other)),
        )
        connection.execute(
            "update ValidPaths set deriver = ? where path = ?", (f"/nix/store/{HASH}-gone.drv", str(again))
        )
        connection.commit()
    assert drv != other


def unknown_entries(store: Store, beside: Path) -> None:
    """All that lies in the store directory, by whatever name, but `.links`."""
    store.add_root("x", store.add_text("x", b"1"))
    top = Path(store.store_dir)
    for name in ("junk", ".hidden", "tmp-123", ".tmp-link-999999-1", "with blank", f"{HASH}-", f"{HASH}", f"{HASH}-ok"):
        (top / name).write_text("x")
    (top / "directory").mkdir()
    (top / "directory/file").write_text("x")
    (top / "directory/closed").mkdir(mode=0)
    os.mkfifo(top / "fifo")
    (top / "link").symlink_to(beside)
    (top / f"{HASH}-link").symlink_to("/")
    (beside / "precious").write_text("x")


def chains(store: Store, beside: Path) -> None:
    """Long, crossed, and of paths that refer to themselves."""
    for length, root in ((30, 20), (5, None)):
        last: tuple[StorePath, ...] = ()
        for number in range(length):
            path = StorePath(str(length % 10) * 32, f"chain{number}")
            hash_part = "".join("0123456789abcdfghijklmnpqrsvwxyz"[(number + i * length) % 32] for i in range(32))
            path = StorePath(hash_part, f"chain-{length}-{number}")
            last = (add(store, path, (path, *last[:2])), *last)
            if number == root:
                store.add_root("middle", path)


SCENES: dict[str, Scene] = {
    scene.__name__.replace("_", " "): scene
    for scene in (
        direct_links,
        links_that_are_no_roots,
        indirect_roots,
        dangling_links,
        regular_files,
        roots_of_invalid_paths,
        a_living_and_a_dead_process,
        environment_of_a_process,
        derivations,
        derivers_that_do_not_fit,
        unknown_entries,
        chains,
    )
}
