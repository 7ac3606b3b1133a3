"""Two paths, and what real Nix makes of them: a binary cache, an export stream, the text of its database.

`python -m tests.core.nix.closure` writes them to tests/golden/closure; a test makes them again and compares.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.nix.trees import GOLDEN, TREE
from tests.oracle import RealNix

FOLDER = GOLDEN / "closure"
LEAF = StorePath.parse("/nix/store/mrgq7g2dvmb3v057n7d988vrxps151rj-tree")
APP = StorePath.parse("/nix/store/1b3wlj8ga4v1dz9s4rcbsq2vq0hkdz2y-app-1.0")
DERIVER = StorePath.parse("/nix/store/9fxsl0m2ib2bhhqpr2kjvbsx7d2i8q5k-app-1.0.drv")
CLOSURE = (LEAF, APP)
APP_TREE = nar.Directory({"bin": nar.Directory({"app": nar.File(f"#!{LEAF}/run\n{APP}\n".encode(), executable=True)})})
SECRET = "golden-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8DoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA=="
PUBLIC = "golden-1:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="


def fill(store: Store) -> None:
    """Add both paths."""
    assert store.add_tree("tree", TREE) == LEAF
    data = nar.encode(APP_TREE)
    store.add_nar(PathInfo(APP, Hash.sha256(data), len(data), CLOSURE, DERIVER), io.BytesIO(data))


def write(nix: RealNix, folder: Path) -> None:
    """What Nix makes of the paths in its store, as files in `folder`."""
    key = folder.with_name(folder.name + ".secret")
    key.write_text(SECRET)
    url = f"file://{folder}?secret-key={key}&compression=none&write-nar-listing=1"
    nix.run("nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--to", url, str(APP))
    key.unlink()
    for path in (folder / "nar").iterdir():
        path.unlink()
    for empty in ("nar", "log", "realisations"):
        (folder / empty).rmdir()
    (folder / "export").write_bytes(nix.run("nix-store", "--export", *map(str, CLOSURE)).stdout)
    (folder / "dump-db").write_bytes(nix.run("nix-store", "--dump-db").stdout)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        try:
            with Store.open(f"{work}/root", create=True) as made:
                fill(made)
            FOLDER.mkdir(exist_ok=True)
            write(RealNix(f"{work}/root"), FOLDER)
        finally:
            make_writable(Path(work))
    print(*sorted(path.name for path in FOLDER.iterdir()), sep="\n", file=sys.stdout)
