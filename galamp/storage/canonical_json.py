"""Canonical JSON of checkpoints: one spelling per object, and checks of what was read.

    object --encode--> bytes, one spelling per object --parse--> object --need_decoded--> dataclass

Runs in the supervisor and in evaluation. Errors are raised as a `CheckpointError` of a few words;
the caller adds the file's path.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from galamp.core.decode import STRICT, Limits, decode
from galamp.core.errors import CheckpointError
from galamp.core.json_values import DecodeError, is_whole, json_object

JSON_LIMIT_BYTES = 1_000_000
LARGEST_COUNT = 2**63 - 1

T = TypeVar("T")


def encode(document: object) -> bytes:
    """Return the canonical bytes of a document.

    Raises:
        CheckpointError: it is too large.
        ValueError, TypeError, RecursionError: JSON cannot express it.
    """
    text = json.dumps(document, allow_nan=False, sort_keys=True, indent=1)
    content = text.encode() + b"\n"
    need(len(content) <= JSON_LIMIT_BYTES, f"more than {JSON_LIMIT_BYTES} bytes of JSON")
    return content


def parse(name: str, content: bytes) -> dict[str, Any]:
    """Parse the output of `encode`; any changed byte, blanks included, is detected.

    Raises:
        CheckpointError: naming `name`, the file of the content.
    """
    try:
        document = json_object(content)
        good = encode(document) == content
    except (ValueError, RecursionError, DecodeError):
        good = False
    need(good, f"{name} is damaged, or was not written by galamp")
    return document


def need(condition: bool, wrong: str) -> None:
    """Raise a `CheckpointError` with the text `wrong`, unless the condition holds."""
    if not condition:
        raise CheckpointError(wrong)


def need_decoded(kind: type[T], value: object, name: str, limits: Limits = STRICT) -> T:
    """Return a JSON value as an instance of a dataclass; see `core.decode.decode`.

    Raises:
        CheckpointError: it is none; the text begins with `name`.
    """
    try:
        return decode(kind, value, limits, name)
    except DecodeError as error:
        raise CheckpointError(str(error)) from None


def need_count(value: object, what: str) -> int:
    """Return a whole number from 0 to `LARGEST_COUNT`."""
    good = is_whole(value, 0, LARGEST_COUNT)
    need(good, f"{what} is not a count")
    assert isinstance(value, int)
    return value
