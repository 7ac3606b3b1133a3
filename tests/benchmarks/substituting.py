"""A whole channel from its binary cache on a web server into an empty store, against real Nix from the same server.

The channel is that of tests/channels: real Debian packages, built, compressed and signed by real Nix, for two systems.
What is registered is durable on both sides; both look every path up, and verify every signature, anew in each round.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from reconciler.core.store.substitute import JOBS
from tests.benchmarks.measure import Run, run
from tests.benchmarks.store import NIX, Case, Sides, empty_store, ours
from tests.channels.maker import real_channel
from tests.core.store.web_server import Server

AIM = 1.0


def substitute(work: Path) -> Sides:
    channel = real_channel(tell=_tell)
    server = Server(channel.cache)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _tell(f"{len(channel.paths)} paths, {channel.size / 1e6:.0f} MB, {channel.file_size / 1e6:.0f} MB compressed")
    paths, root = [str(path) for path in channel.paths], empty_store(work)
    listing = work / "listing"
    listing.write_text("\n".join(paths))
    return Sides(
        lambda: ours("substitute", root(), server.url, channel.key, listing),
        lambda: _nix(root(), server.url, channel.key, paths),
    )


def _tell(what: str) -> None:
    print(f"the channel: {what}", file=sys.stderr, flush=True)


def _nix(root: Path, url: str, key: str, paths: list[str]) -> Run:
    # Nix 2.8 fetches no more than `max-jobs` paths at a time, one by default; ours JOBS.
    settings = ["substitute = true", f"substituters = {url}", f"trusted-public-keys = {key}", f"max-jobs = {JOBS}"]
    config = NIX["NIX_CONFIG"].replace("substitute = false", "\n".join(settings))
    # What it remembers of caches lies in its home: a new one for each round.
    return run(
        ["nix-store", "--store", str(root), "--realise", *paths], {**NIX, "NIX_CONFIG": config, "HOME": f"{root}.home"}
    )


CASES = {"substitute": Case("substitute a channel of real packages, whole", "nix-store --realise", substitute, 3, AIM)}
