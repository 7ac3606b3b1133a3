from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that a command keeps goes into the home of who runs the tests, and no store of theirs is used."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "RECONCILER_INVENTORY", "RECONCILER_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    # As root, a command that uses the machine's own /nix would take this process into another mount namespace.
    monkeypatch.setenv("RECONCILER_STORE", str(home / "store"))
    return home
