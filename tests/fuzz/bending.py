"""How things are bent, and how many of them: what all fuzz tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

MANY: dict[str, int] = {}
"""Examples of each slow property by its name."""

TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"\n", b"\0", b"\xff", b"\\ud800", b"\x1b[2J",
    b"NaN", b"1e999", b"null", b"true", b"0", b"1e5", b"0.5", b"9" * 400, b"9" * 5000, b"[" * 2000,
    b'{"a":' * 2000, "\u2028".encode(),
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "\n", "\0", "\x1b[2J", "\udc80", "\u202e", "ü", "NaN", "inf", "-1", "1e309", "../../x",
    "9" * 400, "9" * 5000, "a" * 300, "a\nb", "~nosuchuser/x", "file:", "os:system", "-" * 70,
)  # fmt: skip

ODD_LEAVES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**63), 10**400])
    | st.floats()
    | st.sampled_from(ODD_TEXTS)
    | st.text(max_size=5)
)
ODD_VALUES: st.SearchStrategy[Any] = st.recursive(
    ODD_LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def examples(few: int, many: int) -> Callable[[Any], Any]:
    """Run a test with `few` fixed examples in the gate, and slowly with `many` fresh ones.

    The test takes `thorough`, a decorator for the property in it.
    """

    def decorate(test: Any) -> Any:
        MANY[f"{test.__module__}.{test.__name__}"] = many
        amounts = [
            pytest.param(_settings(few, derandomize=True), id=f"{few}"),
            pytest.param(
                _settings(many), id=f"{many}", marks=[pytest.mark.slow, pytest.mark.timeout(900)]
            ),
        ]
        return pytest.mark.parametrize("thorough", amounts)(test)

    return decorate


def _settings(amount: int, *, derandomize: bool = False) -> settings:
    return settings(
        max_examples=amount,
        derandomize=derandomize,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "replace", "delete", "repeat", "cut", "zero"]),
        st.floats(0, 1),
        st.integers(0, 40),
        st.sampled_from(TOKENS) | st.binary(max_size=6),
    ),
    min_size=1,
    max_size=3,
)


def edited(content: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """Return `content` with some of its bytes changed."""
    for kind, where, length, token in edits:
        at = int(where * len(content))
        before, part, after = content[:at], content[at : at + length], content[at + length :]
        if kind == "flip" and part:
            part = bytes([part[0] ^ 1 << length % 8]) + part[1:]
        content = {
            "flip": before + part + after,
            "insert": before + token + part + after,
            "replace": before + token + after,
            "delete": before + after,
            "repeat": before + part * 3 + after,
            "cut": before,
            "zero": before + bytes(len(part)) + after,
        }[kind]
    return content


@st.composite
def bent_json(draw: st.DrawFn, document: Any) -> Any:
    """A copy of a JSON document in which one to three places are something else, or gone."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        place, key = None, None
        value = document
        while isinstance(value, dict | list) and value and (place is None or draw(st.booleans())):
            keys = sorted(value) if isinstance(value, dict) else range(len(value))
            place, key = value, draw(st.sampled_from(keys))
            value = place[key]
        if place is None:
            return draw(ODD_VALUES)
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                place[key] = draw(ODD_VALUES)
            case "remove":
                del place[key]
            case _ if isinstance(place, dict):
                place[draw(st.text(max_size=8))] = draw(ODD_VALUES)
            case _:
                place.append(draw(ODD_VALUES))
    return document


def told_in_one_line(error: Exception) -> None:
    """Hold that an error is one line, short enough to be read, that leaves the terminal alone."""
    text = str(error)
    assert text.isprintable(), repr(text)
    assert 10 < len(text) < 1500, text
