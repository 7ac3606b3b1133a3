"""The verb that has the host fetch from binary caches by itself.

What is fetched, from where, and whose signatures count, the controller says: nothing that the host is configured with
(nix.conf, netrc) has a say. What a cache says is verified here as it was there, and has to agree with it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from reconciler.core.agent import stopping
from reconciler.core.agent.messages import CacheMessage, SubstituteReply, SubstituteRequest
from reconciler.core.agent.paths import from_message
from reconciler.core.errors import FormatError, ReconcilerError
from reconciler.core.nix.signature import PublicKey
from reconciler.core.store.path_info import PathInfo

if TYPE_CHECKING:
    from reconciler.core.agent.server import Session
    from reconciler.core.store.binary_cache import BinaryCache
    from reconciler.core.store.substitute import SubstituteEvent

_EVERY = 0.25  # seconds between two events
_REASON = 500  # characters of a reason


def substitute(session: Session, request: SubstituteRequest) -> None:
    """Fetch what can be had; the rest is told, with the reason, and no file of it is registered."""
    infos = [from_message(message) for message in request.paths]
    os.environ["NETRC"] = os.devnull  # whose password it holds is not said by whoever names the cache
    try:
        import ssl  # noqa: F401  (a Python built without it cannot ask web servers)
    except ImportError as error:
        reply = _all_failed(infos, f"this host's Python cannot: {error}")
    else:
        reply = _fetched(session, request, infos)
    session.reply(reply)


def _fetched(session: Session, request: SubstituteRequest, infos: Sequence[PathInfo]) -> SubstituteReply:
    from reconciler.core.store.binary_cache import Caches
    from reconciler.core.store.substitute import substitute_known

    named = [_cache(message) for message in request.caches]
    try:
        reached, reasons = _reached(named)
        if not reached:
            return _all_failed(infos, "; ".join(reasons) or "no cache was named")
        store = session.own_store(create=True)
        result = substitute_known(store, Caches(reached), infos, max(1, request.jobs), _Teller(session).heard)
    finally:
        for cache in named:
            cache.close()
    failed = {str(path): _reason(path, error) for path, error in result.failed.items()}
    return SubstituteReply(tuple(map(str, result.fetched)), result.nar_size, failed)


def _cache(message: CacheMessage) -> BinaryCache:
    """FormatError for a directory, which is this host's and not the controller's, and for a URL with a password."""
    from reconciler.core.store.binary_cache import BinaryCache
    from reconciler.core.store.web import Patience

    # Less patient than a controller: it is there to help out.
    patience = Patience(connect=5.0, silence=20.0, answer=30.0, attempts=3)
    cache = BinaryCache(message.url, [PublicKey.parse(key) for key in message.keys], message.priority, patience)
    if cache.public_url is None:
        raise FormatError(f"{cache}: hosts are sent to caches at http:// and https:// URLs without a password")
    return cache


def _reached(caches: Iterable[BinaryCache]) -> tuple[list[BinaryCache], list[str]]:
    """The caches that answer, and why the others do not: asked once, before each path waits for a silent one."""
    reached, reasons = [], []
    for cache in caches:
        stopping.checkpoint()
        try:
            cache.info()
        except ReconcilerError as error:
            reasons.append(error.message)
        else:
            reached.append(cache)
    return reached, reasons


def _all_failed(infos: Iterable[PathInfo], reason: str) -> SubstituteReply:
    return SubstituteReply((), 0, {str(info.path): reason[:_REASON] for info in infos})


def _reason(path: object, error: ReconcilerError) -> str:
    """Why, without the path, which stands beside it."""
    return error.message.replace(f"{path} cannot be had: ", "", 1)[:_REASON]


class _Teller:
    """Tells the controller how far it is: not each step, but often enough. Heard from several threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._guard = threading.Lock()
        self._told = 0.0

    def heard(self, event: SubstituteEvent) -> None:
        """LinkLostError when the controller is gone: the work ends here."""
        stopping.checkpoint()
        now = time.monotonic()
        with self._guard:
            if event.kind == "bytes" and now - self._told < _EVERY:
                return
            self._told = now
        self._session.event({"kind": event.kind, "path": event.path, "done": event.done, "total": event.total})
