"""Values: classes of named fields, compared by them, frozen unless said otherwise.

They are what dataclasses make, at a lower price. A probe of an unchanged host is measured in milliseconds. Importing
dataclasses (and inspect, with what that imports) and compiling the methods of each class from their text took most of
an agent's start; here the methods are made once and read the fields' names. Only what core uses is there:

    @value                            frozen, compared and hashed by its fields
    @value(order=True)                also ordered by them
    @value(frozen=False)              fields may be set; no hash
    name: type = field(default_factory=list, compare=False, repr=False)

Fields are the class's annotations, which must be text (`from __future__ import annotations`), base classes' first;
`ClassVar[...]` is none. `__post_init__` is called where there is one. Annotations are not evaluated here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable, TypeVar, overload

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        return lambda decorated: decorated


T = TypeVar("T")


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


class Field:
    """One field of a value's class. `default` and `default_factory` are MISSING where there is none."""

    def __init__(self, default: Any, default_factory: Any, compare: bool, repr_: bool) -> None:
        self.name = ""
        self.default = default
        self.default_factory = default_factory
        self.compare = compare
        self.repr = repr_

    @property
    def required(self) -> bool:
        return self.default is MISSING and self.default_factory is MISSING


def field(*, default: Any = MISSING, default_factory: Any = MISSING, compare: bool = True, repr: bool = True) -> Any:  # noqa: A002
    """Says more of a field than its annotation does."""
    return Field(default, default_factory, compare, repr)


@overload
def value(cls: type[T]) -> type[T]: ...
@overload
def value(*, frozen: bool = True, order: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T] | None = None, *, frozen: bool = True, order: bool = False) -> Any:
    """Make a class one of values."""

    def make(made: type[T]) -> type[T]:
        _define(made, frozen, order)
        return made

    return make if cls is None else make(cls)


def fields(of: Any) -> tuple[Field, ...]:
    """The fields of a value, or of a class of values, in the order of the constructor's arguments."""
    found: tuple[Field, ...] = of.__value_fields__
    return found


def replace(one: T, **changes: Any) -> T:
    """A value like `one` but for these fields."""
    return type(one)(**{**{each.name: getattr(one, each.name) for each in fields(one)}, **changes})


def _define(cls: Any, frozen: bool, order: bool) -> None:
    found = tuple(_collect(cls).values())
    cls.__value_fields__ = found
    compared = tuple(each.name for each in found if each.compare)
    _set(cls, "__init__", _initialiser(cls, found))
    _set(cls, "__repr__", _shower([each.name for each in found if each.repr]))
    _set(cls, "__eq__", _comparison(compared, "__eq__"))
    if not frozen:
        cls.__hash__ = None
    else:
        _set(cls, "__hash__", lambda self: hash(tuple([self.__dict__[name] for name in compared])))
        cls.__setattr__ = cls.__delattr__ = _refuse
    for name in ("__lt__", "__le__", "__gt__", "__ge__") if order else ():
        _set(cls, name, _comparison(compared, name))


def _set(cls: Any, name: str, method: Any) -> None:
    """What the class says itself stands. (Python gives a class with an __eq__ of its own a `__hash__ = None`.)"""
    if cls.__dict__.get(name) is None:
        setattr(cls, name, method)


def _collect(cls: Any) -> dict[str, Field]:
    found: dict[str, Field] = {}
    for base in reversed(cls.__mro__[1:]):
        found.update({each.name: each for each in base.__dict__.get("__value_fields__", ())})
    for name, annotation in cls.__dict__.get("__annotations__", {}).items():  # noqa: RUF063  # the class's own alone
        if not isinstance(annotation, str):
            raise TypeError(f"{cls.__name__}.{name}: from __future__ import annotations is missing")
        if annotation.startswith("ClassVar"):
            continue
        given = cls.__dict__.get(name, MISSING)
        one = given if isinstance(given, Field) else Field(given, MISSING, True, True)
        one.name = name
        found[name] = one
        if isinstance(given, Field):
            if one.default is MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, one.default)
    return found


def _initialiser(cls: Any, found: tuple[Field, ...]) -> Callable[..., None]:
    names = tuple(each.name for each in found)
    known = frozenset(names)
    optional = tuple(each for each in found if not each.required)
    required = frozenset(each.name for each in found if each.required)
    then = hasattr(cls, "__post_init__")

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        values = self.__dict__
        values.update(zip(names, args))
        if len(args) != len(names):
            if len(args) > len(names) or not known.issuperset(kwargs) or not kwargs.keys().isdisjoint(values):
                raise TypeError(_misfit(cls, names, args, kwargs))
            values.update(kwargs)
            for each in optional:
                if each.name not in values:
                    values[each.name] = each.default if each.default_factory is MISSING else each.default_factory()
            if len(values) < len(names):
                raise TypeError(f"{cls.__name__}: {', '.join(sorted(required - values.keys()))} missing")
        elif kwargs:
            raise TypeError(_misfit(cls, names, args, kwargs))
        if then:
            self.__post_init__()

    return __init__


def _misfit(cls: Any, names: tuple[str, ...], args: tuple[Any, ...], kwargs: Iterable[str]) -> str:
    if len(args) > len(names):
        return f"{cls.__name__} takes {len(names)} values, not {len(args)}"
    unknown = [name for name in kwargs if name not in names]
    return f"{cls.__name__}: {', '.join(unknown or kwargs)} {'unknown' if unknown else 'given twice'}"


def _shower(names: list[str]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:  # noqa: N807
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _comparison(names: tuple[str, ...], operator: str) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: Any) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        mine, theirs = self.__dict__, other.__dict__
        return getattr(tuple([mine[name] for name in names]), operator)(tuple([theirs[name] for name in names]))

    return compare


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be set: the value is frozen")
