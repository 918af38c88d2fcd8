"""A snapshot as JSON, and back: validated strictly, since it comes from another process.

    Snapshot --as_json--> {"env_id": ..., "learners": [...], ...} --snapshot_from--> Snapshot

Fields and types are those of the dataclasses. JSON has no NaN and infinity: they are sent as null,
and read as None where the field allows it, else as NaN.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from enum import IntEnum
from functools import cache
from typing import Any

from galamp.core.disk import finite
from galamp.telemetry.snapshot import Snapshot
from galamp.training.control.framing import BadMessageError

LARGEST = 2**63
"""Limit of whole numbers, in both directions."""


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as plain JSON values."""
    values: dict[str, Any] = finite(dataclasses.asdict(snapshot))
    return values


def snapshot_from(values: object) -> Snapshot:
    """Return the snapshot of these JSON values.

    Raises:
        BadMessageError: they are invalid, or of another version of galamp.
    """
    snapshot: Snapshot = _read(Snapshot, values, "snapshot")
    return snapshot


def _read(kind: Any, value: object, name: str) -> Any:
    """Return `value` converted to the type `kind`, one of the types of a snapshot's fields."""
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case types.UnionType:
            return None if value is None else _read(arguments[0], value, name)
        case origin if origin is tuple:
            return _read_tuple(arguments, _typed(list, value, name), name)
        case origin if origin is dict:
            items = _typed(dict, value, name).items()
            return {key: _read(arguments[1], leaf, name) for key, leaf in items}
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, _typed(dict, value, name), name)
    if issubclass(kind, IntEnum):
        return _read_member(kind, value, name)
    return _read_leaf(kind, value, name)


def _read_fields(kind: Any, values: dict[str, object], name: str) -> Any:
    hints = _hints(kind)
    if values.keys() != hints.keys():
        other = sorted(values.keys() ^ hints.keys())[0]
        raise BadMessageError(f"{name}: another version of galamp's: {other!r:.60} is not in both")
    return kind(**{field: _read(hint, values[field], field) for field, hint in hints.items()})


def _read_tuple(kinds: tuple[Any, ...], values: list[object], name: str) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise BadMessageError(f"{name}: expected {len(kinds)} values, found {len(values)}")
    return tuple(_read(kind, value, name) for kind, value in zip(kinds, values, strict=True))


def _read_member(kind: type[IntEnum], value: object, name: str) -> IntEnum:
    try:
        return kind(_typed(int, value, name))
    except ValueError:
        raise BadMessageError(f"{name}: expected one of {', '.join(kind.__members__)}") from None


def _read_leaf(kind: type, value: object, name: str) -> Any:
    if kind is not float:
        return _typed(kind, value, name)
    if value is None:
        return math.nan
    return value if type(value) is float else float(_typed(int, value, name))


def _typed(kind: type, value: object, name: str) -> Any:
    # `type`, since True is an int; bounded, since very large integers cannot be printed.
    if type(value) is kind and not (kind is int and abs(typing.cast(int, value)) >= LARGEST):
        return value
    raise BadMessageError(f"{name}: expected {kind.__name__}, found {value!r:.60}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return {field.name: typing.get_type_hints(kind)[field.name] for field in _fields(kind)}


def _fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)
