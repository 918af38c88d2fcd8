"""Snapshots on their way through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galamp.telemetry.snapshot import ConsensusReading, Event, LearnerSnapshot, Snapshot
from galamp.training.control.framing import BadMessageError, Lines, line_of
from galamp.training.control.snapshot_json import as_json, snapshot_from
from tests.support.snapshots import EMPTY, busy

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(int, st.integers(-(2**62), 2**62))
PARTS = {
    kind: st.builds(kind, **dict.fromkeys(kind.__dataclass_fields__, ...))
    for kind in (Event, ConsensusReading, LearnerSnapshot)
}
for part, strategy in PARTS.items():
    st.register_type_strategy(part, strategy)
SNAPSHOTS = st.builds(Snapshot, **dict.fromkeys(Snapshot.__dataclass_fields__, ...))


def sent(snapshot: Snapshot) -> Any:
    """Return what arrives of a snapshot."""
    (message,) = Lines(2**22).feed(line_of(as_json(snapshot)))
    return message


@pytest.mark.parametrize("snapshot", [EMPTY, busy(1), busy(3)])
def test_what_arrives_is_what_was_sent(snapshot: Snapshot) -> None:
    assert snapshot_from(sent(snapshot)) == snapshot
    for field in dataclasses.fields(Snapshot):
        value = getattr(snapshot, field.name)
        assert type(getattr(snapshot_from(sent(snapshot)), field.name)) is type(value)


@settings(max_examples=50, deadline=None)
@given(SNAPSHOTS)
def test_whatever_was_sent(snapshot: Snapshot) -> None:
    assert snapshot_from(sent(snapshot)) == snapshot


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_say(number: float) -> None:
    found = snapshot_from(sent(busy(1, mean_return=number, losses={"entropy": number})))
    assert found.mean_return is None
    assert math.isnan(found.losses["entropy"])


def change(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values | {name: value}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda values: None, "snapshot: expected an object, found null"),
        (lambda values: [values], "snapshot: expected an object, found a list of 1"),
        (
            lambda values: values | {"colour": "red"},
            "colour: is not known; it may be of another version",
        ),
        (lambda values: {k: v for k, v in values.items() if k != "status"}, "status: is missing"),
        (change("status", 3), "status: expected text, found 3"),
        (change("status", None), "status: expected text, found null"),
        (change("agent_steps", True), "agent_steps: expected a whole number, found true"),
        (change("agent_steps", 1.0), "agent_steps: expected a whole number"),
        (change("agent_steps", 10**30), "agent_steps: expected a whole number"),
        (change("mean_return", "2"), "mean_return: expected a finite number or null"),
        (change("mean_return", 10**400), "mean_return: expected a finite number or null"),
        (change("losses", []), "losses: expected an object"),
        (change("curve", [[1]]), r"curve\[0\]: expected a list of 2, found a list of 1"),
        (change("curve", {}), "curve: expected a list, found an object"),
        (change("events", [{}]), r"events\[0\]\.elapsed_s: is missing"),
        (change("consensus", None), "consensus: expected an object"),
        (
            lambda v: v | {"learners": [v["learners"][0] | {"state": 9}]},
            r"learners\[0\]\.state: expected one of",
        ),
    ],
)
def test_what_was_never_sent_is_refused(spoil: Callable[[dict[str, Any]], Any], why: str) -> None:
    with pytest.raises(BadMessageError, match=why) as refusal:
        snapshot_from(spoil(sent(busy(1))))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n",
        b"{\n",
        b"[]\n",
        b"1" * 5000 + b"\n",
        b"[" * 100_000 + b"\n",
        b"x" * 4_194_305,
    ],
)
def test_lines_that_are_no_messages(line: bytes) -> None:
    with pytest.raises(BadMessageError):
        list(Lines(2**22).feed(line))


def test_lines_come_in_pieces() -> None:
    lines = Lines(100)
    whole = b"".join(json.dumps({"number": n}).encode() + b"\n" for n in range(5))
    found = [message["number"] for byte in whole for message in lines.feed(bytes([byte]))]
    assert found == list(range(5))
