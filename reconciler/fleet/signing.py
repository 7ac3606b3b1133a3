"""Our own signature on what is sent to a Nix daemon that trusts our key: what we built carries none yet."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.core.agent.messages import PathMessage
from reconciler.core.agent.paths import from_message
from reconciler.core.nix.signature import fingerprint
from reconciler.core.values import replace
from reconciler.fleet.sending import Bundle
from reconciler.packages.key_file import KEY_FILE

if TYPE_CHECKING:
    from reconciler.packages.keys import SecretKey


@dataclass(frozen=True)
class Signed:
    """Signs bundles for `hosts` by `key`, where there is one; a path is signed once, however many hosts get it."""

    hosts: Collection[str] = ()
    key: SecretKey | None = None
    _known: dict[str, PathMessage] = field(default_factory=dict, compare=False, repr=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def __call__(self, host: str, bundle: Bundle) -> Bundle:
        if self.key is None or host not in self.hosts:
            return bundle
        with self._guard:
            return Bundle(tuple(self._sign(self.key, path) for path in bundle.paths))

    def _sign(self, key: SecretKey, path: PathMessage) -> PathMessage:
        """What follows from its contents needs no signature, and what has ours has it."""
        if path.ca or any(signature.startswith(f"{key.name}:") for signature in path.signatures):
            return path
        if path.path not in self._known:
            info = from_message(path)
            signature = key.sign(fingerprint(info.path, info.nar_hash, info.nar_size, info.references))
            self._known[path.path] = replace(path, signatures=(*path.signatures, signature))
        return self._known[path.path]


UNSIGNED = Signed()


def signed(hosts: Collection[str]) -> Signed:
    """Sign for `hosts` with the key that the environment names. UsageError where that cannot be read."""
    file = os.environ.get(KEY_FILE) if hosts else None
    if not file:
        return UNSIGNED
    from reconciler.packages.keys import SecretKey

    return Signed(hosts, SecretKey.load(file))
