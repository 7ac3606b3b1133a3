"""Small stand-ins for slow modules of the standard library, for core's own modules inside an agent.

A probe of an unchanged host is measured in milliseconds, and most of them went into importing enum, typing, json,
contextlib and re, with what those import (functools, collections, ...). Core uses a small part of them. Here is that
part with the same meaning (tests/core/agent/test_lean.py compares the two); a name that is not here is taken from the
real module, which is then imported. Some more modules (LATER) are imported when they are first used rather than where
they are named.

Only core's own modules see the stand-ins, through the `__import__` that their loader gives them (start.py). The
standard library and the controller use the real ones.
"""

# Twins of the library's, names and all: whoever uses them is checked against the real ones, and the tests compare both.
# mypy: ignore-errors
# ruff: noqa: A002, ARG001, ARG002, N801, RUF063, SIM905

import _thread
import builtins
import sys

# --- enum -------------------------------------------------------------------------------------------------------------


class EnumType(type):
    def __new__(mcls, name, bases, namespace):
        members = {
            key: value for key, value in namespace.items() if not key.startswith("_") and not hasattr(value, "__get__")
        }
        rest = {key: value for key, value in namespace.items() if key not in members}
        cls = super().__new__(mcls, name, bases, rest)
        cls._member_map_ = {}
        cls._value2member_map_ = {}
        mixin = next((base for base in cls.__mro__ if base in (int, str, float)), None)
        for key, value in members.items():
            member = cls._value2member_map_.get(value)
            if member is None:
                member = object.__new__(cls) if mixin is None else mixin.__new__(cls, value)
                member._name_ = key
                member._value_ = value
                cls._value2member_map_[value] = member
            cls._member_map_[key] = member
            type.__setattr__(cls, key, member)
        return cls

    def __call__(cls, value):
        if isinstance(value, cls):
            return value
        try:
            return cls._value2member_map_[value]
        except (KeyError, TypeError):
            raise ValueError(f"{value!r} is not a valid {cls.__qualname__}") from None

    def __iter__(cls):
        return iter(cls._value2member_map_.values())

    def __len__(cls):
        return len(cls._value2member_map_)

    def __contains__(cls, value):
        return isinstance(value, cls) or value in cls._value2member_map_

    def __getitem__(cls, name):
        return cls._member_map_[name]

    @property
    def __members__(cls):
        return dict(cls._member_map_)

    def __setattr__(cls, name, value):
        if name in cls.__dict__.get("_member_map_", ()):
            raise AttributeError(f"cannot reassign member {name!r}")
        super().__setattr__(name, value)


class Enum(metaclass=EnumType):
    @property
    def name(self):
        return self._name_

    @property
    def value(self):
        return self._value_

    def __repr__(self):
        return f"<{type(self).__name__}.{self._name_}: {self._value_!r}>"

    def __str__(self):
        return f"{type(self).__name__}.{self._name_}"

    def __hash__(self):
        return hash(self._name_)


class IntEnum(int, Enum):
    __str__ = int.__repr__
    __hash__ = int.__hash__


# --- typing -----------------------------------------------------------------------------------------------------------


class _Form:
    """A special form: subscripted it stays itself, since nothing in core asks what was inside."""

    def __init__(self, name):
        self._name = name

    def __getitem__(self, item):
        return self

    def __call__(self, *args, **kwargs):
        return self

    def __or__(self, other):
        return self

    __ror__ = __or__

    def __repr__(self):
        return f"typing.{self._name}"

    def __mro_entries__(self, bases):
        return ()


class _Alias:
    def __init__(self, origin, args):
        self.__origin__ = origin
        self.__args__ = args


class _Union(_Form):
    def __getitem__(self, item):
        args = item if isinstance(item, tuple) else (item,)
        return _Alias(self, args)


class _Optional(_Form):
    def __getitem__(self, item):
        return _Alias(typing.Union, (item, type(None)))


class Generic:
    def __class_getitem__(cls, item):
        return cls


class Protocol:
    def __class_getitem__(cls, item):
        return cls


def cast(hint, value):
    return value


def overload(function):
    return function


def get_origin(hint):
    return getattr(hint, "__origin__", None)


def get_args(hint):
    return getattr(hint, "__args__", ())


def get_type_hints(cls):
    found = {}
    for base in reversed(cls.__mro__):
        scope = getattr(sys.modules.get(base.__module__), "__dict__", {})
        for name, annotation in base.__dict__.get("__annotations__", {}).items():
            found[name] = eval(annotation, scope) if isinstance(annotation, str) else annotation  # noqa: S307  # ours
    return found


# --- json -------------------------------------------------------------------------------------------------------------


class _Scan:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name):
        return {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}[name]


_SPACE = " \t\n\r"
_tools = []


def _json_tools():
    if not _tools:
        import _json

        def refuse(value):
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

        def encoder(item_separator, key_separator):
            return _json.make_encoder(
                None, refuse, _json.encode_basestring_ascii, None, key_separator, item_separator, False, False, True
            )

        _tools.extend((_json.make_scanner(_Scan()), encoder))
    return _tools


def dumps(value, *, separators=(", ", ": ")):
    encode = _json_tools()[1](*separators)
    if isinstance(value, (str, float)):  # the encoder takes containers only, in some versions
        return "".join(encode([value], 0))[1:-1]
    return "".join(encode(value, 0))


def loads(text):
    if isinstance(text, (bytes, bytearray)):
        text = text.decode()
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _json_tools()[0](text, start)
    except StopIteration:
        raise ValueError("no JSON") from None
    if text[end:].strip(_SPACE):
        raise ValueError("something after the JSON")
    return value


# --- contextlib -------------------------------------------------------------------------------------------------------


class _GeneratorContext:
    def __init__(self, generator):
        self._generator = generator

    def __enter__(self):
        try:
            return next(self._generator)
        except StopIteration:
            raise RuntimeError("generator didn't yield") from None

    def __exit__(self, kind, error, trace):
        if kind is None:
            try:
                next(self._generator)
            except StopIteration:
                return False
            raise RuntimeError("generator didn't stop")
        error = kind() if error is None else error
        try:
            self._generator.throw(error)
        except StopIteration as stop:
            return stop is not error
        except BaseException as raised:
            # The same error on its way out, also as the RuntimeError that a StopIteration becomes inside a generator.
            if raised is error or (isinstance(error, StopIteration) and raised.__cause__ is error):
                return False
            raise
        raise RuntimeError("generator didn't stop after throw()")


def contextmanager(function):
    def helper(*args, **kwargs):
        return _GeneratorContext(function(*args, **kwargs))

    helper.__name__ = function.__name__
    helper.__doc__ = function.__doc__
    return helper


class suppress:
    def __init__(self, *kinds):
        self._kinds = kinds

    def __enter__(self):
        return None

    def __exit__(self, kind, error, trace):
        return kind is not None and issubclass(kind, self._kinds)


class closing:
    def __init__(self, thing):
        self.thing = thing

    def __enter__(self):
        return self.thing

    def __exit__(self, *error):
        self.thing.close()


# --- re ---------------------------------------------------------------------------------------------------------------

# (pattern, flags) -> the arguments of _sre.compile, out of a compiled file of ours: then re is not imported at all.
precompiled = {}
# Every pattern that a module has asked for, as (pattern, flags).
seen_patterns = []


class _Pattern:
    """A pattern that is compiled when it is first used: modules hold theirs from the import on."""

    def __init__(self, pattern, flags):
        self._key = (pattern, int(flags))
        seen_patterns.append(self._key)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        arguments = precompiled.get(self._key)
        if arguments is not None:
            import _sre

            real = _sre.compile(*arguments)
        else:
            import re

            real = re.compile(*self._key)
        for method in (
            "fullmatch",
            "match",
            "search",
            "sub",
            "subn",
            "split",
            "findall",
            "finditer",
            "pattern",
            "flags",
        ):
            self.__dict__[method] = getattr(real, method)
        return getattr(real, name)


def _compile(pattern, flags=0):
    return _Pattern(pattern, flags)


# --- who sees them ----------------------------------------------------------------------------------------------------


class _StandIn:
    """Looks like a module; a name that it lacks comes from the real one."""

    def __init__(self, name, **names):
        self.__dict__.update(names)
        self.__name__ = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        builtins.__import__(self.__name__)
        value = getattr(sys.modules[self.__name__], name)
        self.__dict__[name] = value
        return value

    def itself(self):
        return self


def _forms(*names):
    return {name: _Form(name) for name in names}


typing = _StandIn(
    "typing",
    TYPE_CHECKING=False,
    Generic=Generic,
    Protocol=Protocol,
    Optional=_Optional("Optional"),
    Union=_Union("Union"),
    cast=cast,
    overload=overload,
    get_origin=get_origin,
    get_args=get_args,
    get_type_hints=get_type_hints,
    **_forms(
        "Any", "BinaryIO", "Callable", "ClassVar", "ContextManager", "Dict", "Final", "FrozenSet", "Generator", "IO",
        "Iterable", "Iterator", "List", "Literal", "Mapping", "NoReturn", "Sequence", "Set", "TextIO", "Tuple", "Type",
        "TypeVar",
    ),
)  # fmt: skip


def _abc():
    import _collections_abc

    return _collections_abc


def _sqlite():
    # sqlite3 is this module plus adapters for dates, which no database of Nix holds. It takes one function of
    # functools, for its cache of statements, and would have all of functools and collections imported for it.
    import _functools

    def lru_cache(maxsize):
        return lambda function: _functools._lru_cache_wrapper(function, maxsize, False, tuple)

    lent = "functools" not in sys.modules
    if lent:
        sys.modules["functools"] = _StandIn("functools", lru_cache=lru_cache)
    try:
        import _sqlite3
    finally:
        if lent:
            del sys.modules["functools"]
    return _sqlite3


def _collections():
    import _collections

    return _StandIn(
        "collections",
        OrderedDict=_collections.OrderedDict,
        defaultdict=_collections.defaultdict,
        deque=_collections.deque,
    )


def _find_spec(name):
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None)
        if spec is not None:
            return spec
    return None


class _Future:
    annotations = None


STAND_INS = {
    "__future__": lambda: _Future,
    "collections": _collections,
    "collections.abc": _abc,
    "contextlib": lambda: _CONTEXTLIB,
    "enum": lambda: _ENUM,
    "json": lambda: _JSON,
    "importlib.util": lambda: _IMPORTLIB_UTIL,
    "re": lambda: _RE,
    "sqlite3": _sqlite,
    "threading": lambda: _THREADING,
    "types": lambda: _TYPES,
    "typing": lambda: typing,
}
_ENUM = _StandIn("enum", Enum=Enum, IntEnum=IntEnum, EnumMeta=EnumType)
_CONTEXTLIB = _StandIn("contextlib", contextmanager=contextmanager, suppress=suppress, closing=closing)
_IMPORTLIB_UTIL = _StandIn("importlib.util", find_spec=_find_spec)
_THREADING = _StandIn("threading", Lock=_thread.allocate_lock, RLock=_thread.RLock)
_TYPES = _StandIn("types", TracebackType=_Form("TracebackType"))
_RE = _StandIn("re", compile=_compile, IGNORECASE=2, MULTILINE=8, DOTALL=16, VERBOSE=64, ASCII=256)
_JSON = _StandIn("json", dumps=dumps, loads=loads, JSONDecodeError=ValueError)


# Imported when something of them is first used, where a module says `import NAME`.
LATER = frozenset(
    """base64 bz2 ctypes fnmatch functools glob hashlib importlib lzma random secrets shutil socket subprocess tempfile
    traceback urllib zipfile zlib""".split()
)


def builtins_for_core():
    """The builtins namespace for modules of core: the real one with an `__import__` that knows the stand-ins."""
    real_import = builtins.__import__

    def lean_import(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and name in STAND_INS and (fromlist or "." not in name):
            return STAND_INS[name]()
        if level == 0 and not fromlist and name in LATER and name not in sys.modules:
            return STAND_INS.setdefault(name, _StandIn(name).itself)()
        return real_import(name, globals, locals, fromlist, level)

    return {**builtins.__dict__, "__import__": lean_import}
