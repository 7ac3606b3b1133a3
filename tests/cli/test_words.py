from __future__ import annotations

import time

import pytest

from reconciler.cli.render import words
from reconciler.fleet.plan import ChangeKind, PackageChange
from tests.cli.values import NOW


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (6_606_029, "6.3 MiB"),
        (2**40, "1.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_a_size_is_told_in_the_unit_that_fits(count: int, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.24, "0.2 s"), (9.96, "10 s"), (41.2, "41 s"), (112, "1 min 52 s"), (7500, "2 h 5 min")]
)
def test_a_duration_is_told_as_people_say_it(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "just now"), (1500, "25 min ago"), (7200, "2 h ago"), (259_200, "3 days ago")]
)
def test_the_past_is_told_by_its_distance(seconds: float, text: str) -> None:
    assert words.ago(seconds) == text


@pytest.mark.parametrize(
    ("then", "text"),
    [
        ((2026, 3, 12, 14, 12), "today 14:12"),
        ((2026, 3, 10, 9, 31), "Tue 09:31"),
        ((2025, 11, 2, 8, 0), "2025-11-02 08:00"),
    ],
)
def test_a_moment_is_told_by_day_and_clock(then: tuple[int, ...], text: str) -> None:
    assert words.when(time.mktime((*then, 0, 0, 0, -1)), NOW) == text  # type: ignore[arg-type]


def test_few_hosts_are_named_each() -> None:
    assert words.hosts_named(["web01", "web02", "web03", "db01"]) == "web01 web02 web03 db01"


def test_many_hosts_are_named_by_the_ranges_that_a_pattern_would_use() -> None:
    names = [f"web{n:02}.example" for n in range(1, 31)] + ["db01"]
    assert words.hosts_named(names) == "web[01:30].example db01"


def test_hosts_without_ranges_are_named_as_far_as_a_line_goes() -> None:
    names = [f"h{n}x" for n in range(1, 60, 2)]
    assert words.hosts_named(names) == " ".join(names[:12]) + " … and 18 more"


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["w1", "w2"], ["w1", "w2"]),
        (["w1", "w2", "w3"], ["w[1:3]"]),
        (["w9", "w10", "w11"], ["w[9:11]"]),
        (["w09", "w10", "w11"], ["w[09:11]"]),
        (["w1", "w3", "w4"], ["w1", "w3", "w4"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_only_names_that_count_up_become_a_range(names: list[str], parts: list[str]) -> None:
    assert words.ranges(names) == parts


def test_columns_stand_under_each_other_without_trailing_blanks() -> None:
    assert words.columns([("host", "state", ""), ("web01", "ok", "x"), ("w", "", "")]) == [
        "host    state",
        "web01   ok      x",
        "w",
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (PackageChange("nginx", ChangeKind.CHANGED, "1.24", "1.26"), "nginx 1.24 -> 1.26"),
        (PackageChange("app", ChangeKind.CHANGED, "2", "2"), "app 2 rebuilt"),
        (PackageChange("fd", ChangeKind.ADDED, "", "10"), "+ fd 10"),
        (PackageChange("fd", ChangeKind.REMOVED, "10", ""), "- fd"),
    ],
)
def test_a_package_change_fits_into_a_cell(change: PackageChange, text: str) -> None:
    assert words.change_words(change) == text


def test_a_store_path_is_abbreviated_in_its_hash_only() -> None:
    assert words.abbreviated("/nix/store/7p3" + "0" * 29 + "-orders-5.2.3") == "/nix/store/7p3…-orders-5.2.3"
    assert words.abbreviated("/etc/passwd") == "/etc/passwd"
