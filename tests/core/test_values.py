from __future__ import annotations

import dataclasses
import pickle
from typing import Any, ClassVar

import pytest

from reconciler.core.values import field, fields, replace, value


@value
class Point:
    ORIGIN: ClassVar[str] = "here"
    x: int
    y: int = 0
    tags: tuple[str, ...] = field(default_factory=tuple, compare=False, repr=False)

    @property
    def both(self) -> int:
        return self.x + self.y


@value
class Point3(Point):
    z: int = 5


@value(order=True)
class Version:
    major: int
    minor: int = 0


@value(frozen=False)
class Counter:
    count: int = 0
    seen: list[int] = field(default_factory=list)


@value
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


@dataclasses.dataclass(frozen=True)
class Twin:
    x: int
    y: int = 0
    tags: tuple[str, ...] = dataclasses.field(default_factory=tuple, compare=False, repr=False)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {}), ((1, 2), {}), ((1, 2, ("a",)), {}), ((), {"x": 1}), ((1,), {"y": 3}), ((1,), {"tags": ("a",)})],
)
def test_it_takes_what_a_dataclass_takes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    mine, theirs = Point(*args, **kwargs), Twin(*args, **kwargs)
    assert (mine.x, mine.y, mine.tags) == (theirs.x, theirs.y, theirs.tags)
    assert repr(mine) == repr(theirs).replace("Twin", "Point")


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        ((), {}, "Point: x missing"),
        ((), {"y": 1}, "Point: x missing"),
        ((1, 2, (), 4), {}, "Point takes 3 values, not 4"),
        ((1,), {"z": 3}, "Point: z unknown"),
        ((1,), {"x": 3}, "Point: x given twice"),
        ((1, 2, ()), {"y": 3}, "Point: y given twice"),
    ],
)
def test_it_refuses_what_a_dataclass_refuses(args: tuple[Any, ...], kwargs: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError):
        Twin(*args, **kwargs)
    with pytest.raises(TypeError, match=told):
        Point(*args, **kwargs)


def test_values_are_equal_by_the_fields_that_are_compared() -> None:
    assert Point(1, 2, ("a",)) == Point(1, 2, ("b",))
    assert hash(Point(1, 2, ("a",))) == hash(Point(1, 2, ("b",)))
    assert Point(1, 2) != Point(1, 3)
    assert Point3(1, 2) != Point(1, 2)
    assert Point(1) != Twin(1)  # type: ignore[comparison-overlap]


def test_a_base_class_gives_its_fields_first() -> None:
    assert [each.name for each in fields(Point3)] == ["x", "y", "tags", "z"]
    assert Point3(1, 2, (), 9).z == 9
    assert Point3(1).both == 1


def test_values_are_ordered_only_where_it_is_said() -> None:
    assert sorted([Version(2), Version(1, 5), Version(1)]) == [Version(1), Version(1, 5), Version(2)]
    with pytest.raises(TypeError):
        Point(1) < Point(2)  # type: ignore[operator]  # noqa: B015


def test_a_frozen_value_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match=r"Point\.x cannot be set"):
        Point(1).x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match=r"Point\.x cannot be set"):
        del Point(1).x


def test_one_that_is_not_frozen_can_be_changed_and_has_no_hash() -> None:
    one, other = Counter(), Counter()
    one.count += 1
    one.seen.append(3)
    assert (one.count, one.seen, other.seen) == (1, [3], [])
    with pytest.raises(TypeError):
        hash(one)


def test_a_value_is_replaced_in_some_fields() -> None:
    assert replace(Point(1, 2), y=3) == Point(1, 3)
    with pytest.raises(ValueError, match="3 is odd"):
        replace(Even(2), number=3)


def test_a_value_is_checked_when_it_is_made() -> None:
    assert Even(2).number == 2
    with pytest.raises(ValueError, match="3 is odd"):
        Even(3)


def test_a_value_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(Point3(1, 2, ("a",), 4))) == Point3(1, 2, ("a",), 4)


def test_annotations_that_are_not_text_are_refused() -> None:
    class Wrong:
        pass

    Wrong.__annotations__ = {"x": int}
    with pytest.raises(TypeError, match="from __future__ import annotations is missing"):
        value(Wrong)
