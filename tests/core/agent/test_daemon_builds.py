"""Builds by real Nix's daemon: what was built, what failed and why, told as our own builder tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.agent.daemon_builds import realise
from reconciler.core.build.events import BuildEvent, BuildOptions
from reconciler.core.build.realise import BuildsError
from reconciler.core.errors import BuildError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import Element, EnvironmentPlan, environment
from reconciler.core.store.daemon import DaemonStore
from reconciler.core.store.store import Store
from tests.core.store.daemons import real_daemon

pytestmark = pytest.mark.nix


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("there") / "root"
    with real_daemon(root):
        yield root


@pytest.fixture
def daemon(there: Path) -> Iterator[DaemonStore]:
    with DaemonStore.open(str(there)) as store:
        yield store


def sent(tmp_path: Path, daemon: DaemonStore, *names: str) -> EnvironmentPlan:
    """The environment of packages that each have one file, of the same name; its derivation is there."""
    with Store.open(str(tmp_path / "here"), create=True) as here:
        packages = [here.add_tree(name, nar.Directory({"file": nar.File(name.encode())})) for name in names]
        plan = environment([Element(package, 5) for package in packages])
        here.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
        here.write_derivation(plan.derivation, "user-environment")
        batch = daemon.batch()
        for path in here.closure([plan.drv_path]):
            batch.add_nar(here.info(path), nar.ChunkReader(here.nar(path)))
        batch.commit()
    return plan


def heard() -> tuple[list[tuple[str, str]], BuildOptions]:
    events: list[tuple[str, str]] = []

    def hear(event: BuildEvent) -> None:
        events.append((event.kind, event.derivation))

    return events, BuildOptions(on_event=hear)


def test_what_was_built_is_told_once_and_what_is_there_is_not_built_again(tmp_path: Path, daemon: DaemonStore) -> None:
    plan = sent(tmp_path, daemon, "one")
    events, options = heard()
    result = realise(daemon, [plan.drv_path], options)
    assert result.built == (plan.drv_path,)
    assert [info.path for info in result.outputs] == [plan.output]
    assert events == [("start", str(plan.drv_path)), ("done", str(plan.drv_path))]
    events, options = heard()
    again = realise(daemon, [plan.drv_path], options)
    assert (again.built, again.outputs, events) == ((), result.outputs, [])


def test_a_build_that_fails_is_told_in_nixs_words(tmp_path: Path, daemon: DaemonStore) -> None:
    plan = sent(tmp_path, daemon, "two", "three")
    events, options = heard()
    with pytest.raises(
        BuildError, match=r"(?s)builder for .* failed.*packages .* and .* have the same priority|collision"
    ):
        realise(daemon, [plan.drv_path], options)
    assert events[0] == ("start", str(plan.drv_path))
    assert events[-1] == ("failed", str(plan.drv_path))
    assert ("done", str(plan.drv_path)) not in events


def test_with_keep_going_all_else_is_made(tmp_path: Path, daemon: DaemonStore) -> None:
    bad, good = sent(tmp_path, daemon, "four", "five"), sent(tmp_path, daemon, "six")
    with pytest.raises(BuildsError) as failed:
        realise(daemon, [bad.drv_path, good.drv_path], BuildOptions(keep_going=True))
    assert list(failed.value.errors) == [bad.drv_path]
    assert daemon.valid([bad.output, good.output]) == {good.output}


def test_nobody_waits_any_more(tmp_path: Path, daemon: DaemonStore) -> None:
    plan = sent(tmp_path, daemon, "seven")
    with pytest.raises(BuildError, match="nobody waits for them"):
        realise(daemon, [plan.drv_path], BuildOptions(cancelled=lambda: True))


def test_what_is_no_derivation_is_refused(daemon: DaemonStore) -> None:
    missing = StorePath.parse("/nix/store/" + "0" * 32 + "-missing.drv")
    with pytest.raises(StoreError, match=f"{missing}: No such file"):
        realise(daemon, [missing], BuildOptions())
