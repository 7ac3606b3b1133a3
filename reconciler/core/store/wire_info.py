"""What is said of a path before its archive, alike in both of Nix's protocols (AddToStoreNar of each).

    path, deriver (empty: none), hash of the archive (bare base-16), references, when it was registered (0: now), size
    of the archive, whether it was built there, signatures, ca

Source: WorkerProto and ServeProto in Nix's src/libstore.
"""

from __future__ import annotations

from reconciler.core.nix.wire import number, string, strings
from reconciler.core.store.path_info import PathInfo


def described(info: PathInfo) -> bytes:
    """Of a path that is to be registered now, and was not built where it goes."""
    return b"".join(
        (
            string(str(info.path)),
            string(str(info.deriver) if info.deriver else ""),
            string(info.nar_hash.base16),
            strings(map(str, info.references)),
            number(0),
            number(info.nar_size),
            number(0),
            strings(info.signatures),
            string(info.ca),
        )
    )
