"""JSON values from outside: objects of files and messages, numbers in range, and their errors.

    content of a file, a line, a message --json_object--> dict --core.decode.decode--> dataclass

Used wherever JSON comes from outside: a run folder, a checkpoint, another process.
"""

from __future__ import annotations

import json
from typing import Any, TypeGuard

from galamp.core.errors import GalampError

MAX_SHOWN = 20
"""Characters of a refused value, and of a name that came from outside, in an error."""


class DecodeError(GalampError):
    """A value is not what was expected; one line that begins with the path of the field."""

    def __init__(self, problem: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(problem)
        self.problem, self.path = problem, path

    @property
    def problems(self) -> tuple[str, ...]:
        """The path and the problem, such as `mixed[0].weight: expected a finite number`."""
        path = "".join(self.path).removeprefix(".")
        return (f"{path}: {self.problem}" if path else self.problem,)

    def within(self, step: str) -> DecodeError:
        """Return the error as one of the value that holds this one at `step` (`.name`, `[0]`)."""
        return DecodeError(self.problem, (step, *self.path))


def json_object(content: bytes | str) -> dict[str, Any]:
    """Return the object that `content` is the JSON of.

    Raises:
        DecodeError: it is not JSON, or no object.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise DecodeError("not JSON: expected a JSON object") from None
    if not isinstance(values, dict):
        raise DecodeError("expected a JSON object")
    return values


def is_whole(value: object, least: float, greatest: float) -> TypeGuard[int]:
    """Whether a JSON value is a whole number from `least` to `greatest`; true and 1.0 are none."""
    return type(value) is int and least <= value <= greatest


def is_number(value: object, least: float, greatest: float) -> TypeGuard[float]:
    """Whether a JSON value is a number from `least` to `greatest`; NaN is none."""
    # A huge int is compared before the conversion, and NaN fails the comparison.
    return (type(value) is float or type(value) is int) and least <= value <= greatest


def shown(value: object) -> str:
    """Return a refused JSON value in a few characters."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value):,}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**64:
        return "a huge number"
    text = json.dumps(value[:MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN + 2 else f"{text[:MAX_SHOWN]}..."


def shown_name(name: str) -> str:
    """Return a name from outside in a few printable characters."""
    return json.dumps(name[:MAX_SHOWN])[1:-1][:MAX_SHOWN]
