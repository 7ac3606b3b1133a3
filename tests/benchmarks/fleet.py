"""Deploys to real OpenSSH hosts, against what one would use instead. Needs root."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from tests.benchmarks.measure import Run, compare, real_files, run
from tests.e2e.operator import Operator
from tests.hosts.host import Fleet, Options, make_fleet

FLEET = 30
FORKS = 20
PATHS = 100
CLOSURE = 300 * 10**6
SMALL_CLOSURE = 30 * 10**6


def closure(root: Path, name: str, paths: int, size: int) -> StorePath:
    """A store path whose closure is `paths` paths of real files, `size` bytes together."""
    files = real_files(size)
    with Store.open(str(root), create=True) as store, tempfile.TemporaryDirectory() as scratch:
        parts = []
        for number in range(paths - 1):
            folder = Path(scratch, f"part{number}")
            folder.mkdir()
            for index, file in enumerate(files[number :: paths - 1]):
                shutil.copyfile(file, folder / f"{index:04}-{file.name}")
            parts.append(store.add_path(f"{name}-{number:03}", str(folder)))
        from reconciler.core.nix import nar

        tree = nar.Directory({f"part{n}": nar.Link(str(part)) for n, part in enumerate(parts)})
        return store.add_tree(f"{name}-1.0", tree, tuple(sorted(parts)))


def rows(scratch: Path) -> list[str]:
    """The lines of the first table of docs/benchmarks.md."""
    return [
        "| what | ours | instead | ratio | controller's peak |",
        "|---|---|---|---|---|",
        *no_op(scratch / "noop"),
        *first_copy(scratch / "copy"),
    ]


def fleet(directory: Path, hosts: int) -> tuple[Fleet, Operator]:
    directory.mkdir()
    made = make_fleet(directory / "fleet", [f"host{n:02}" for n in range(1, hosts + 1)], Options(tmpfs=True))
    return made, Operator(directory, made)


def deploy(admin: Operator, *words: str) -> Run:
    return run([sys.executable, "-m", "reconciler", "deploy", *words], admin.environment)


def no_op(directory: Path) -> list[str]:
    hosts, admin = fleet(directory, FLEET)
    try:
        admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally"]}}})
        deploy(admin, "--hosts", "host*", f"--yes={FLEET}", "--forks", str(FORKS))
        # Once more: from the second deployment on, a host has the agent's code.
        found = compare(
            lambda: deploy(admin, "--hosts", "host*", "--forks", str(FORKS)),
            lambda: run(
                [
                    *(sys.executable, "-m", "tests.benchmarks.login_each"),
                    *(str(hosts.ssh_config), str(FORKS), *(host.name for host in hosts)),
                ],
                os.environ,
            ),
            rounds=5,
        )
        return [found.row(f"no-op deploy of {FLEET} hosts; a login and `python3 -c pass` on each")]
    finally:
        hosts.close()


def first_copy(directory: Path) -> list[str]:
    rounds = 3
    hosts, admin = fleet(directory, 2 * (rounds + 1) + 1)
    try:
        big = closure(admin.store, "bundle", PATHS, CLOSURE)
        small = closure(admin.store, "little", PATHS, SMALL_CLOSURE)
        admin.want({"packages": [str(big)]})
        ours = iter([host.name for host in hosts][: rounds + 1])
        theirs = iter([host.name for host in hosts][rounds + 1 : -1])
        nix = {
            **os.environ,
            "NIX_SSHOPTS": f"-F {hosts.ssh_config}",
            "NIX_CONFIG": "experimental-features = nix-command",
        }
        found = compare(
            lambda: deploy(admin, "--hosts", next(ours), "--yes"),
            lambda: run(
                [
                    *("nix", "copy", "--no-check-sigs", "--from", f"local?root={admin.store}"),
                    *("--to", f"ssh://{next(theirs)}", str(big)),
                ],
                nix,
            ),
            rounds,
        )
        admin.want({"packages": [str(small)]})
        little = deploy(admin, "--hosts", hosts[-1].name, "--yes")
        memory = f"peak memory: closure of {CLOSURE // 10**6} MB; of {SMALL_CLOSURE // 10**6} MB"
        size = f"{PATHS} paths, {CLOSURE // 10**6} MB"
        return [
            found.row(f"first copy of {size}; `nix copy --to ssh://`"),
            f"| {memory} | {found.peak:.0f} MiB | {little.peak:.0f} MiB | {found.peak / little.peak:.2f} | |",
        ]
    finally:
        hosts.close()
