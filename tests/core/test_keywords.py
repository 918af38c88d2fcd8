"""Keyword arguments as text: read as JSON, TOML or text, kept in one form, wrong ones told."""

from __future__ import annotations

from typing import Any

import pytest

from galamp.core import keywords
from galamp.core.config import RunConfig, from_dict, to_dict
from galamp.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-9.8", -9.8),
        ("3", 3),
        ("1e3", 1000.0),
        ("1_000", 1000),
        ("true", True),
        ("True", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ('"3"', "3"),
        ("'3'", "3"),
        ("8x8", "8x8"),
        ("[1, 2]", [1, 2]),
        ("[1, 2,]", [1, 2]),
        ('{"a": [true]}', {"a": [True]}),
        ("{a = 1}", {"a": 1}),
        ("", ""),
        ("a=b", "a=b"),
        ("1\nb = 2", "1\nb = 2"),
        ("2020-01-01", "2020-01-01"),  # a date in TOML, which no JSON has
        ("[" * 5000, "[" * 5000),
    ],
)
def test_values_are_read(text: str, value: Any) -> None:
    read = keywords.parsed(text)
    assert read == value
    assert type(read) is type(value)


def test_the_one_form_is_a_fixed_point_and_printable() -> None:
    given = ("map=8x8", "gravity=-9.8", "name=ü\x1b", "slippery=False", "nothing=None")
    texts = keywords.canonical("--env-kwargs", given)
    assert keywords.canonical("--env-kwargs", texts) == texts
    assert all(text.isprintable() for text in texts)
    assert keywords.values(texts) == {
        "map": "8x8",
        "gravity": -9.8,
        "name": "ü\x1b",
        "slippery": False,
        "nothing": None,
    }


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (("gravity",), "--env-kwargs gravity: expected KEY=VALUE"),
        (("=3",), "--env-kwargs =3: expected KEY=VALUE"),
        (("a b=3",), "--env-kwargs a b=3: expected KEY=VALUE"),
        (("a=1", "b=2", "a=1"), "--env-kwargs a: stands there twice"),
        (("a=" + "x" * 500,), "expected 400 at most"),
    ],
)
def test_what_is_none_is_told(texts: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        keywords.canonical("--env-kwargs", texts)


def test_a_stored_config_keeps_them_as_lists_of_text() -> None:
    values = to_dict(RunConfig())
    assert (values["environment"]["env_kwargs"], values["environment"]["wrapper"]) == ([], [])
    values["environment"] |= {"env_kwargs": ["a=1"], "wrapper": ["m:B", "m:A"]}
    config = from_dict(values)
    assert (config.environment.env_kwargs, config.environment.wrapper) == (("a=1",), ("m:B", "m:A"))
    assert to_dict(config) == values
    for wrong in ("a=1", [1], {"a": 1}, None, ["a"]):
        with pytest.raises(UserError, match=r"--env-kwargs .*: expected "):
            from_dict({"environment": {"env_kwargs": wrong}})
    with pytest.raises(UserError, match=r"--wrapper os: expected package\.module:Class"):
        from_dict({"environment": {"wrapper": ["os"]}})
