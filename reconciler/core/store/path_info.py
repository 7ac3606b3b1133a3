"""What is registered of a store path."""

from __future__ import annotations

from reconciler.core.errors import FormatError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import value


@value
class PathInfo:
    """One valid path.

    `nar_hash` is a sha256, `nar_size` in bytes; `references` are sorted and may hold the path itself. `ca` is empty, or
    how the path follows from its contents, as in a narinfo (`fixed:r:sha256:…`, `text:sha256:…`). `ultimate`: built
    here. `registered`: seconds since the epoch, or 0 for the time of registering.
    """

    path: StorePath
    nar_hash: Hash
    nar_size: int
    references: tuple[StorePath, ...]
    deriver: StorePath | None = None
    signatures: tuple[str, ...] = ()
    ca: str = ""
    ultimate: bool = False
    registered: int = 0

    def __post_init__(self) -> None:
        if self.nar_hash.algorithm != "sha256":
            raise FormatError(f"{self.path}: the NAR's hash must be a sha256, not {self.nar_hash.algorithm}")
        if self.nar_size <= 0:
            raise FormatError(f"{self.path}: a NAR has more than {self.nar_size} bytes")
        ordered = tuple(sorted(set(self.references)))
        if ordered != self.references:
            object.__setattr__(self, "references", ordered)

    @property
    def other_references(self) -> tuple[StorePath, ...]:
        """The references without the path itself."""
        return tuple(reference for reference in self.references if reference != self.path)
