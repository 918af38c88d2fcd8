"""Canonical JSON of checkpoints: one spelling per object, and checks of what was read.

    object --encode--> bytes, one spelling per object --decode--> object --need_...--> use

Runs in the supervisor and in evaluation. Errors are raised as a `CheckpointError` of a few words;
the caller adds the file's path.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from galamp.core.errors import CheckpointError

JSON_LIMIT_BYTES = 1_000_000
COUNT_LIMIT = 2**63


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


def decode(name: str, content: bytes) -> dict[str, Any]:
    """Parse the output of `encode`; any changed byte, blanks included, is detected.

    Raises:
        CheckpointError: naming `name`, the file of the content.
    """
    try:
        document = json.loads(content)
        good = isinstance(document, dict) and encode(document) == content
    except (ValueError, RecursionError):
        good = False
    need(good, f"{name} is damaged, or was not written by galamp")
    found: dict[str, Any] = document
    return found


def need(condition: bool, wrong: str) -> None:
    """Raise a `CheckpointError` with the text `wrong`, unless the condition holds."""
    if not condition:
        raise CheckpointError(wrong)


def need_mapping(value: object, what: str, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Return a copy of a JSON object; it must have exactly `keys`, if given."""
    good = isinstance(value, dict) and (keys is None or set(value) == set(keys))
    need(good, f"{what}: expected an object" + (f" of {', '.join(keys)}" if keys else ""))
    assert isinstance(value, dict)
    return dict(value)


def need_count(value: object, what: str) -> int:
    """Return a whole number from 0 to below `COUNT_LIMIT`."""
    need(type(value) is int and 0 <= value < COUNT_LIMIT, f"{what} is not a count")
    assert isinstance(value, int)
    return value
