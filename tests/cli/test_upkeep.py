"""gc, verify, repair and optimise as they are typed and as they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.main import run
from reconciler.cli.render.gc import gc_json, gc_text
from reconciler.cli.render.upkeep import optimise_text, progress_text, repair_text, verify_text
from reconciler.core.agent.messages import (
    CollectReply,
    FindingMessage,
    Generation,
    OptimiseReply,
    PrunedProfile,
    VerifyReply,
)
from reconciler.core.errors import RefusedError
from reconciler.core.store.store import Store
from reconciler.fleet.logins import HostResult, Stage
from reconciler.fleet.repairing import Broken, Repaired, Repairs
from reconciler.fleet.upkeep import HERE
from tests.cli.values import NOW
from tests.conftest import make_writable
from tests.core.profile.packages import package

PATH = "/nix/store/" + "a" * 32 + "-orders-5.2"


def gone(*numbers: int) -> tuple[Generation, ...]:
    return tuple(Generation(number, PATH, NOW, False) for number in numbers)


REPLY = CollectReply(
    True,
    (
        PrunedProfile("system", "/nix/var/nix/profiles/system", gone(1, 2), 3),
        PrunedProfile("user/alice", "/p", (), 1, "the home is not there"),
        PrunedProfile("default", "/d", (), 4),
    ),
    12,
    ("x-1", "y-2"),
    3 << 20,
    90,
)
LOCKED = RefusedError("web03: web03 is locked: oncall deploys k9 since 09:14", "wait until it has ended")


def test_a_gc_shows_what_goes_and_what_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW + 3 * 86_400)
    hosts = [
        HostResult("web01", Stage.PLANNED, REPLY),
        HostResult("web02", Stage.NOTHING, CollectReply(True)),
        HostResult("web03", Stage.FAILED, error=LOCKED),
        HostResult("web04", Stage.NOTHING, CollectReply(False)),
    ]
    assert gc_text(hosts).splitlines() == [
        "web01",
        "  system   2 generations go: 1 (3 days ago), 2 (3 days ago); 3 kept",
        "  alice    the home is not there",
        "  store    12 paths, 3.0 MiB to be freed; 90 paths stay",
        "web02   nothing to delete",
        "web03   REFUSED: web03 is locked: oncall deploys k9 since 09:14",
        "  next     wait until it has ended",
        "web04   nothing: this host is not managed",
        "",
        "2 generations, 12 paths, 3.0 MiB to be freed on 1 host.",
    ]
    done = gc_text([HostResult("web01", Stage.DONE, REPLY)])
    assert "2 generations are gone" in done
    assert "3.0 MiB freed;" in done
    assert "/nix/store/y-2" in gc_text(hosts, every_path=True)
    (told, *_) = gc_json(hosts, 7)["hosts"]
    assert (told["state"], told["paths"], told["deleted"][0]) == ("planned", 12, "/nix/store/x-1")
    assert [one["number"] for one in told["profiles"][0]["goes"]] == [1, 2]


def test_findings_are_shown_with_what_to_do() -> None:
    findings = (
        FindingMessage(PATH, "changed", "its hash is x, registered is y", True),
        FindingMessage("/nix/store/z", "unregistered", "it is not a valid path", False),
        FindingMessage("/nix/var/nix/db/db.sqlite", "database", "damaged", False),
    )
    found = HostResult("web01", Stage.DONE, VerifyReply(True, 871, 2048, 3, findings))
    assert verify_text([found, HostResult(HERE, Stage.DONE, VerifyReply(True, 1, 10))], True).splitlines() == [
        "web01   3 FINDINGS   871 paths, 2.0 KiB",
        "  changed        /nix/store/aaa…-orders-5.2   its hash is x, registered is y",
        "  unregistered   /nix/store/z                 it is not a valid path",
        "  database       /nix/var/nix/db/db.sqlite    damaged",
        "  next     reconciler repair --hosts web01",
        "  next     reconciler gc --hosts web01",
        "  next     no command mends the rest; docs/commands/repair.md says what can be done",
        "(here)   ok   1 path, 10 B",
    ]
    assert "… and 50 more; --json names them" in verify_text(
        [HostResult("a", Stage.DONE, VerifyReply(True, 1, 1, 100, findings[:1] * 100))], True
    )
    shallow = verify_text([HostResult("a", Stage.NOTHING, VerifyReply(False))], False)
    assert shallow == "a   nothing: there is no store"


def test_a_repair_shows_where_each_path_came_from() -> None:
    repairs = Repairs(3, (Repaired(PATH, "host web02"),), (Broken("/nix/store/b", "changed", "not there"),), 2)
    assert repair_text(
        [HostResult(HERE, Stage.DONE, repairs), HostResult("b", Stage.DONE, Repairs())]
    ).splitlines() == [
        "(here)   1 repaired, 1 broken",
        "  repaired   /nix/store/aaa…-orders-5.2   from host web02",
        "  BROKEN     /nix/store/b                 changed: not there",
        "  next     reconciler gc --here   (2 paths that nothing knows)",
        "b   ok: nothing to repair",
    ]


def test_an_optimise_says_what_it_freed_and_progress_how_far_it_is() -> None:
    done = HostResult("a", Stage.DONE, OptimiseReply(True, 3, 2048, ("x/y",)))
    assert optimise_text([done]).splitlines() == [
        "a   3 files linked, 2.0 KiB freed",
        "  skipped  /nix/store/x/y   writable; reconciler verify --hosts a tells more",
    ]
    assert progress_text("a", {"kind": "path", "path": "p", "count": 7, "bytes": 2048}) == "a   path 7   2.0 KiB"


WRONG = {
    ("gc",): "gc needs --hosts PATTERN, or --here",
    ("verify", "--here", "--hosts", "a"): "--here and --hosts exclude each other",
    ("gc", "--here", "--keep-days", "3"): "this controller's store has no generations of hosts",
    ("gc", "--here", "--delete-generations", "old"): "this controller's store has no generations of hosts",
    ("gc", "--here", "--system"): "this controller's store has no generations of hosts",
    ("gc", "--hosts", "a", "--delete-generations", "old", "--keep-days", "3"): "--keep-… and --delete-generations excl",
    ("gc", "--hosts", "a", "--delete-generations", "3-5"): "--delete-generations: '3-5' is not the number of a gen",
    ("gc", "--hosts", "a", "--delete-generations", ""): "--delete-generations: no generations are named",
    ("gc", "--hosts", "a", "--delete-generations", "3,5"): "the number of a generation means another one in each",
    ("gc", "--hosts", "a", "--delete-generations", "3", "--users", "a*"): "the number of a generation means another",
    ("gc", "--hosts", "a", "--delete-generations", "3", "--system", "--users", "a"): "the number of a generation mea",
    ("repair", "--here", "--key", "a:b"): "--key is for a cache, and none is given",
    ("repair", "--here", "--cache", "file:///x", "--key", "nonsense"): "--key: ",
    ("gc", "--here", "--keep-generations", "0"): "--keep-generations: '0' is not a number of generations",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_is_typed_wrong_is_said(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", list(words)) == 2
    assert f"error: {WRONG[words]}" in capsys.readouterr().err


def test_the_controller_s_own_store_is_looked_after_without_an_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "store"
    monkeypatch.setenv("RECONCILER_STORE", str(root))
    monkeypatch.chdir(tmp_path)
    assert run("reconciler", ["verify", "--here"]) == 3
    assert "there is no store" in capsys.readouterr().err
    with Store.open(str(root), create=True) as store:
        path = package(store, "a-1.0")
        package(store, "b-1.0", {"bin": {"a": "#!/bin/sh\necho a-1.0\n"}})
    (root / f"nix/store/{path.base_name}/bin/a").chmod(0o600)
    assert run("reconciler", ["verify", "--here"]) == 9
    assert "next     reconciler repair --here" in capsys.readouterr().out
    assert [run("reconciler", [word, "--here"]) for word in ("repair", "verify", "optimise")] == [0, 0, 0]
    assert "(here)   1 file linked" in capsys.readouterr().out
    assert run("reconciler", ["gc", "--here"]) == 2
    assert "would have asked: Delete what nothing keeps in this controller's store?" in capsys.readouterr().err
    assert run("reconciler", ["gc", "--here", "--yes"]) == 0
    assert "store   2 paths" in capsys.readouterr().out
    assert run("reconciler", ["gc", "--here", "--yes"]) == 0
    make_writable(tmp_path)
