"""The strict decoder: every kind of field, what is refused, and how the field is named."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galamp.core.decode import STRICT, Limits, Range, decode
from galamp.core.json_values import DecodeError, is_number, is_whole, json_object


class Colour(IntEnum):
    RED = 1
    BLUE = 2


class Source(NamedTuple):
    peer: int
    weight: float


@dataclass(frozen=True)
class Inner:
    text: str


@dataclass(frozen=True)
class Outer:
    flag: bool
    count: int
    amount: float
    maybe: float | None
    few: Annotated[int, Range(1, 4)]
    pair: tuple[int, str]
    colour: Colour
    sources: tuple[Source, ...]
    by_name: dict[str, Inner]
    names_or_sizes: tuple[str, ...] | dict[str, int]
    anything: Any
    later: int = 7
    more: tuple[int, ...] = field(default=())


GOOD: dict[str, Any] = {
    "flag": True, "count": 3, "amount": 2, "maybe": None, "few": 4, "pair": [1, "a"], "colour": 2,
    "sources": [[0, 0.5], [1, 1]], "by_name": {"x": {"text": "t"}}, "names_or_sizes": {"a": 1},
    "anything": [{}],
}  # fmt: skip


def wrong(limits: Limits = STRICT, **changes: Any) -> str:
    with pytest.raises(DecodeError) as refused:
        decode(Outer, json.loads(json.dumps(GOOD | changes)), limits)
    (line,) = refused.value.problems
    assert line.isprintable()
    assert len(line) < 150
    return line


def test_every_kind_of_field_is_read() -> None:
    found = decode(Outer, GOOD)
    assert found == Outer(
        True, 3, 2.0, None, 4, (1, "a"), Colour.BLUE, (Source(0, 0.5), Source(1, 1.0)),
        {"x": Inner("t")}, {"a": 1}, [{}],
    )  # fmt: skip
    assert type(found.amount) is type(found.sources[1].weight) is float
    assert decode(Outer, GOOD | {"names_or_sizes": ["a"]}).names_or_sizes == ("a",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"flag": 1}, "flag: expected true or false, found 1"),
        ({"count": True}, "count: expected a whole number from 0, found true"),
        ({"count": 1.0}, "count: expected a whole number from 0, found 1.0"),
        ({"count": -1}, "count: expected a whole number from 0, found -1"),
        ({"count": 2**63}, "count: expected a whole number from 0, found"),
        ({"count": None}, "count: expected a whole number from 0, found null"),
        ({"count": 10**4000}, "count: expected a whole number from 0, found a huge number"),
        ({"amount": "2"}, 'amount: expected a finite number, found "2"'),
        ({"amount": math.nan}, "amount: expected a finite number, found NaN"),
        ({"amount": math.inf}, "amount: expected a finite number, found Infinity"),
        ({"amount": 10**4000}, "amount: expected a finite number, found a huge number"),
        ({"maybe": "x"}, 'maybe: expected a finite number or null, found "x"'),
        ({"few": 5}, "few: expected a whole number from 1 to 4, found 5"),
        ({"pair": [1]}, "pair: expected a list of 2, found a list of 1"),
        ({"pair": [1, 2]}, "pair[1]: expected text, found 2"),
        ({"colour": 3}, "colour: expected one of RED, BLUE, found 3"),
        ({"colour": True}, "colour: expected one of RED, BLUE, found true"),
        ({"sources": {}}, "sources: expected a list, found an object"),
        ({"sources": [[0, 1], {"peer": 1, "weight": 2}]}, "sources[1]: expected a list of peer, w"),
        ({"sources": [[0, 1], [1, "a" * 999]]}, "sources[1][1]: expected a finite number, found"),
        ({"by_name": {"x\x1b" * 99: {}}}, "by_name.x\\u001bx"),
        ({"by_name": {"x": {"text": "t", "y": 1}}}, "by_name.x.y: is not known"),
        (
            {"names_or_sizes": 1},
            "expected a list or an object of at most 1,048,576 fields, found 1",
        ),
        ({"names_or_sizes": {"a": "b"}}, "names_or_sizes.a: expected a whole number"),
        ({"other": 1}, "other: is not known"),
    ],
)
def test_what_does_not_fit_is_told_with_its_field(changes: dict[str, Any], told: str) -> None:
    assert told in wrong(**changes)


def test_a_missing_field_is_told_or_takes_its_default() -> None:
    without = {name: value for name, value in GOOD.items() if name != "flag"}
    with pytest.raises(DecodeError, match=r"^thing: flag: is missing$"):
        decode(Outer, without, name="thing")
    with pytest.raises(DecodeError, match=r"^later: is missing$"):
        decode(Outer, GOOD, Limits(all_fields=True))


def test_unknown_fields_are_left_out_where_they_may_be_there() -> None:
    assert decode(Outer, GOOD | {"new": 1}, Limits(more_fields=True)) == decode(Outer, GOOD)


def test_sizes_are_bounded() -> None:
    limits = Limits(items=2, characters=5, number=Range(0.0, 1.0))
    assert wrong(limits, amount=1.5) == "amount: expected a finite number from 0 to 1, found 1.5"
    limits = Limits(items=2, characters=5)
    assert wrong(limits, more=[1, 2, 3]) == "more: expected a list of at most 2, found 3"
    assert wrong(limits, pair=[1, "x" * 6]) == "pair[1]: expected at most 5 characters, found 6"
    big = {str(n): {"text": ""} for n in range(3)}
    assert (
        wrong(limits, by_name=big)
        == "by_name: expected an object of at most 2 fields, found an object"
    )


def test_null_is_nan_only_where_that_was_said() -> None:
    found = decode(Outer, GOOD | {"amount": None}, Limits(null_is_nan=True))
    assert math.isnan(found.amount)
    assert found.maybe is None
    assert "found null" in wrong(Limits(null_is_nan=True), count=None)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
LISTS, OBJECTS = st.lists(LEAVES, max_size=3), st.dictionaries(st.text(), LEAVES, max_size=3)
JSON = LEAVES | LISTS | OBJECTS | st.lists(LISTS | OBJECTS, max_size=3)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_whatever_a_field_holds_it_fits_or_is_refused(name: str, value: Any) -> None:
    try:
        found = decode(Outer, GOOD | {name: value})
    except DecodeError as error:
        (line,) = error.problems
        assert line.startswith(name)
        assert line.isprintable()
        assert len(line) < 200
    else:
        assert isinstance(found, Outer)


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"{", b"[" * 100_000, b'{"a":' + b"9" * 9999 + b"}"]
)
def test_what_is_not_json_is_told_so(text: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^not JSON: expected a JSON object$"):
        json_object(text)


def test_what_is_no_object_is_told_so() -> None:
    assert json_object(b'{"a": [1]}') == {"a": [1]}
    for text in ("[]", "1", "null", '"a"'):
        with pytest.raises(DecodeError, match=r"^expected a JSON object$"):
            json_object(text)


def test_numbers_of_files_are_within_bounds() -> None:
    assert is_whole(3, 0, 3)
    assert not any(is_whole(each, 0, 3) for each in (4, -1, True, 1.0, "1", None, 10**400))
    assert is_number(3, 0, 3)
    assert is_number(0.5, 0, 3)
    assert not any(is_number(each, 0, 3) for each in (math.nan, math.inf, True, "1", 10**400))
