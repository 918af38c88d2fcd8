"""Strict decoder: JSON values into dataclasses and named tuples, by the types of their fields.

    JSON values --decode(kind)--> instance of kind, with values of the types of its fields
                                  or a DecodeError, which names the field

Used wherever JSON comes from outside: a run folder, a checkpoint, another process. Nothing is
converted but what JSON cannot tell apart: a list becomes a tuple, a whole number a float. Sizes and
ranges are bounded by `Limits`, or by a `Range` in the type of a field.

A kind is bool, int, float, str, Any, a union (such as with None), tuple, dict with names, IntEnum,
a dataclass, or a NamedTuple. A named tuple within another kind is a list, as `json` writes it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Annotated, Any, NoReturn, TypeVar, cast

from galamp.core.json_values import DecodeError, is_number, is_whole, shown, shown_name

T = TypeVar("T")
Read = Callable[[Any], Any]
"""Takes a JSON value; raises a `DecodeError`. What holds others reads them at once, and again, one
by one, where any is refused: good values need no path."""


@dataclass(frozen=True)
class Range:
    """Least and greatest value of one number, as in `Annotated[int, Range(1, 1024)]`."""

    least: float
    greatest: float


Positive = Annotated[int, Range(1, 2**63 - 1)]


@dataclass(frozen=True, eq=False)
class Limits:
    """What is taken where the type of a field does not say more; everything is finite.

    Attributes:
        whole: range of ints.
        number: range of floats.
        items: most items of a list, and of an object with any names.
        characters: most characters of a text.
        more_fields: whether an object may have fields that are not known, which are left out.
        all_fields: whether fields that have a default must be there, too.
        null_is_nan: whether null stands for a float that JSON cannot express.
    """

    whole: Range = Range(0, 2**63 - 1)
    number: Range = Range(-1e300, 1e300)
    items: int = 2**20
    characters: int = 2**20
    more_fields: bool = False
    all_fields: bool = False
    null_is_nan: bool = False


STRICT = Limits()
"""The default."""


def decode(kind: type[T], value: object, limits: Limits = STRICT, name: str = "") -> T:
    """Return the instance of a dataclass or named tuple whose fields an object has.

    Fields that are missing take their default, unless `limits` want them.

    Args:
        kind: the class.
        value: a JSON value.
        limits: what is taken.
        name: what the value is, in an error.

    Raises:
        DecodeError: a field is missing, unknown, of another type, or out of its limits.
    """
    try:
        return _read_of(cast(Any, kind), limits)(value)  # type: ignore[no-any-return]
    except DecodeError as error:
        raise (DecodeError(f"{name}: {error}") if name else error) from None


def _reader(kind: Any, limits: Limits, bounds: Range | None = None) -> Read:
    """Return the function that decodes values of a kind."""
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Annotated:
            inner, *more = arguments
            found = (each for each in more if isinstance(each, Range))
            return _reader(inner, limits, next(found, None))
        case types.UnionType | typing.Union:
            kinds = [each for each in arguments if each is not types.NoneType]
            optional = len(kinds) < len(arguments)
            return _union(tuple(_reader(each, limits) for each in kinds), optional)
        case origin if origin is tuple and arguments[-1] is Ellipsis:
            return _list(_reader(arguments[0], limits), limits.items)
        case origin if origin is tuple:
            return _row(tuple(_reader(each, limits) for each in arguments), f"{len(arguments)}")
        case origin if origin is dict:
            return _mapping(_reader(arguments[1], limits), limits.items)
    if kind in (int, float):
        return _number(kind, bounds or (limits.whole if kind is int else limits.number), limits)
    if kind is str:
        return _text(limits.characters)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if dataclasses.is_dataclass(kind):
        return _read_of(cast(Any, kind), limits)
    if issubclass(kind, tuple):
        names = ", ".join(kind._fields)
        read = _row(tuple(_reader(h, limits) for h in _hints(kind).values()), names)
        return lambda value: kind(*read(value))
    assert issubclass(kind, IntEnum), f"no JSON form is known of {kind}"
    return _member(kind)


def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass or named tuple, by name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {name: hints[name] for name in kind._fields}


def _optional(kind: Any) -> frozenset[str]:
    """Return the names of the fields that have a default."""
    if not dataclasses.is_dataclass(kind):
        return frozenset(kind._field_defaults)
    none = dataclasses.MISSING
    return frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not none or field.default_factory is not none
    )


@cache
def _read_of(kind: Hashable, limits: Limits) -> Read:
    make: Any = kind
    hints = _hints(kind)
    readers = [(name, _reader(hint, limits)) for name, hint in hints.items()]
    needed = hints.keys() if limits.all_fields else hints.keys() - _optional(kind)

    def read(value: Any) -> Any:
        if type(value) is not dict:
            _refuse("an object", value)
        if limits.more_fields or len(value) == len(readers):
            try:
                return make(*[each(value[name]) for name, each in readers])
            except (KeyError, DecodeError):
                pass  # told below
        if missing := needed - value.keys():
            raise DecodeError("is missing", (f".{min(missing)}",))
        if not limits.more_fields and (unknown := value.keys() - hints.keys()):
            raise DecodeError("is not known", (f".{shown_name(min(unknown))}",))
        here = [each for each in readers if each[0] in value]
        return make(**{name: _at(f".{name}", each, value[name]) for name, each in here})

    return read


def _at(step: str, read: Read, value: object) -> Any:
    """Return what is read of a value; an error says where it stands."""
    try:
        return read(value)
    except DecodeError as error:
        raise error.within(step) from None


def _list(read: Read, most: int) -> Read:
    def read_all(value: Any) -> Any:
        if type(value) not in (list, tuple):
            _refuse("a list", value)
        if len(value) > most:
            raise DecodeError(f"expected a list of at most {most:,}, found {len(value):,}")
        try:
            return tuple(map(read, value))
        except DecodeError:
            for index, each in enumerate(value):
                _at(f"[{index}]", read, each)
            raise

    return read_all


def _row(readers: tuple[Read, ...], what: str) -> Read:
    def read_all(value: Any) -> Any:
        if type(value) not in (list, tuple) or len(value) != len(readers):
            _refuse(f"a list of {what}", value)
        try:
            return tuple([read(each) for read, each in zip(readers, value, strict=True)])
        except DecodeError:
            for index, (read, each) in enumerate(zip(readers, value, strict=True)):
                _at(f"[{index}]", read, each)
            raise

    return read_all


def _mapping(read: Read, most: int) -> Read:
    def read_all(value: Any) -> Any:
        if type(value) is not dict or len(value) > most:
            _refuse(f"an object of at most {most:,} fields", value)
        return {name: _at(f".{shown_name(name)}", read, each) for name, each in value.items()}

    return read_all


def _union(readers: tuple[Read, ...], optional: bool) -> Read:
    def read_first(value: Any) -> Any:
        if optional and value is None:
            return None
        errors = []
        for read in readers:
            try:
                return read(value)
            except DecodeError as error:
                errors.append(error)
        deepest = max(errors, key=lambda error: len(error.path))
        if deepest.path:
            raise deepest
        wanted = [each.problem.removeprefix("expected ").partition(", found")[0] for each in errors]
        _refuse(" or ".join([*wanted, "null"] if optional else wanted), value)

    return read_first


def _number(kind: Any, bounds: Range, limits: Limits) -> Read:
    fits, expected = (is_whole, "a whole number") if kind is int else (is_number, "a finite number")
    least, greatest, nan = bounds.least, bounds.greatest, limits.null_is_nan and kind is float
    expected += _range(bounds)

    def read(value: Any) -> Any:
        if type(value) is kind and least <= value <= greatest:  # as nearly all are
            return value
        if fits(value, least, greatest):
            return kind(value)
        if nan and value is None:
            return math.nan
        _refuse(expected, value)

    return read


def _range(bounds: Range) -> str:
    """Return a range in words, without limits that nobody would reach."""
    least = "" if bounds.least < -1e9 else f" from {bounds.least:g}"
    return least + ("" if bounds.greatest > 1e9 else f" to {bounds.greatest:g}")


def _text(most: int) -> Read:
    def read(value: Any) -> str:
        if type(value) is not str:
            _refuse("text", value)
        if len(value) > most:
            raise DecodeError(f"expected at most {most:,} characters, found {len(value):,}")
        return str(value)

    return read


def _member(kind: type[IntEnum]) -> Read:
    def read(value: Any) -> IntEnum:
        if type(value) is int and value in kind._value2member_map_:
            return kind(value)
        _refuse(f"one of {', '.join(kind.__members__)}", value)

    return read


def _exactly(kind: type, expected: str) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not kind:  # `type`, since True is an int
            _refuse(expected, value)
        return value

    return read


_PLAIN: Mapping[Any, Read] = {
    bool: _exactly(bool, "true or false"),
    types.NoneType: _exactly(types.NoneType, "null"),
    dict: _exactly(dict, "an object"),
    Any: lambda value: value,
    object: lambda value: value,
}


def _refuse(expected: str, value: object) -> NoReturn:
    raise DecodeError(f"expected {expected}, found {shown(value)}")
