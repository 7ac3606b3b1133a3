from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.errors import StoreError, UsageError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.journal import Journal, JournalEntry
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import ChangeKind, PackageChange
from reconciler.fleet.report import HostReport, ProfileReport
from tests.fleet.values import generation

INVENTORY = "/home/me/inventories/x"
HOST = HostReport(
    "web01",
    State.CONFIRMED,
    (
        ProfileReport(
            ProfileId.SYSTEM,
            None,
            generation(1, "top-a"),
            generation(1, "top-a"),
            (PackageChange("hello", ChangeKind.ADDED, "", "2.10"),),
        ),
    ),
)
ENTRY = JournalEntry(
    "260312-1412-k7", "deploy", 100.0, "me@here", "first", "switch", INVENTORY, "abc", "", True, 2.5, (HOST,)
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INVENTORY)
    journal.write(ENTRY)
    assert journal.entries() == (ENTRY,)


def test_a_journal_that_cannot_be_written_says_where_it_would_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StoreError, match=f"^the journal cannot be written: {tmp_path}/state/journal: ") as error:
        Journal(tmp_path / "state", INVENTORY).write(ENTRY)
    assert error.value.hint == "make that possible, or name another place: XDG_STATE_HOME=DIRECTORY"


def test_a_deployment_is_found_by_its_id_its_end_or_as_the_last(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INVENTORY)
    journal.write(ENTRY)
    later = replace(ENTRY, id="260312-1500-m3", when=200.0)
    journal.write(later)
    assert journal.find("260312-1412-k7") == ENTRY
    assert journal.find("k7") == ENTRY
    assert journal.find("last") == later


def test_the_last_is_the_last_of_this_inventory(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INVENTORY)
    journal.write(ENTRY)
    journal.write(replace(ENTRY, id="260312-1500-m3", when=200.0, inventory="/home/me/inventories/other"))
    assert journal.find("last") == ENTRY


def test_an_end_that_two_share_is_refused_with_both(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INVENTORY)
    journal.write(ENTRY)
    journal.write(replace(ENTRY, id="260313-1412-k7"))
    with pytest.raises(UsageError, match="'k7' is the end of several deployments: 260312-1412-k7, 260313-1412-k7"):
        journal.find("k7")


@pytest.mark.parametrize("name", ["x9", "260312"])
def test_an_unknown_deployment_is_a_usage_error(tmp_path: Path, name: str) -> None:
    journal = Journal(tmp_path, INVENTORY)
    journal.write(ENTRY)
    with pytest.raises(UsageError, match=f"no deployment '{name}' is in this controller's journal"):
        journal.find(name)


def test_an_empty_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no deployment has been made from here yet"):
        Journal(tmp_path, INVENTORY).find("last")


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INVENTORY)
    journal.write(ENTRY)
    (file,) = journal.directory.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    with pytest.raises(
        StoreError, match=r"k7\.json: written by a newer reconciler \(format 2, this one reads up to 1\)"
    ):
        journal.entries()


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INVENTORY)
    journal.write(ENTRY)
    (file,) = journal.directory.iterdir()
    file.write_text("{")
    with pytest.raises(StoreError, match=r"k7\.json: not a journal entry"):
        journal.entries()


def test_new_ids_differ_at_their_ends(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INVENTORY)
    made = set()
    for _ in range(60):
        fresh = journal.new_id()
        assert re.fullmatch(r"\d{6}-\d{4}-[a-z][2-9]", fresh)
        journal.write(replace(ENTRY, id=fresh))
        made.add(fresh.rsplit("-", 1)[-1])
    assert len(made) == 60
