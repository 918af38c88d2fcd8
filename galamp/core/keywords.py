"""Keyword arguments as text, and names of user code given one by one: checked, in their one form.

    --env-kwargs gravity=-9.8 map=8x8 --canonical--> ("gravity=-9.8", 'map="8x8"') --values--> dict

The command line and config.json hold the texts; who makes an environment takes the values. This
module imports only `errors` and `settings` from galamp, so it is cheap for every process.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from typing import Any

from galamp.core.errors import UserError
from galamp.core.settings import CLASS, is_user_code, shown

MAX_CHARACTERS = 400
"""Most characters of all texts of one setting together: they stand in the protocol, in one line."""

_PYTHON = {"True": True, "False": False, "None": None}
"""Python's own names of values: as texts they would all count as true."""


def canonical(flag: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return `KEY=VALUE` texts with every value as JSON.

    A value is read as JSON, else as TOML, else as Python's True, False or None, else it is text.

    Raises:
        UserError: a text has no key, a key is no name or stands twice, or there is too much of it.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"{flag} {shown(text)}: expected KEY=VALUE, such as gravity=-9.8")
        if key in found:
            raise UserError(f"{flag} {key}: stands there twice; give it once")
        found[key] = f"{key}={json.dumps(parsed(value))}"
    return _bounded(flag, tuple(found.values()))


def values(texts: Iterable[str]) -> dict[str, Any]:
    """Return the keyword arguments of `KEY=VALUE` texts."""
    pairs = (text.partition("=") for text in texts)
    return {key: parsed(value) for key, _, value in pairs}


def parsed(text: str) -> Any:
    """Return the value that a text stands for, one that JSON can express; else the text."""
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = tomllib.loads(f"value = {text}")["value"] if text.isprintable() else text
        json.dumps(value)
    except (ValueError, TypeError, RecursionError, KeyError):  # no TOML, or a date
        return text
    return value


def names(flag: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of classes of the user's, in their order; nothing is imported.

    Raises:
        UserError: one has not the form of such a name, or there is too much of it.
    """
    for text in texts:
        if not is_user_code(text):
            raise UserError(f"{flag} {shown(text)}: expected {CLASS}")
    return _bounded(flag, texts)


def _bounded(flag: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    length = sum(map(len, texts))
    if length > MAX_CHARACTERS:
        raise UserError(
            f"{flag}: {length:,} characters in all: expected {MAX_CHARACTERS} at most; write them "
            "into a factory of your own"
        )
    return texts
