"""Sanitised text: text from outside that is safe to show on a terminal, in one line.

Used by every process that prints messages. Pure functions from text to text.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 1000
"""Longest line: enough for all choices of a setting, or for a usual path."""

END_CHARACTERS = 300
"""Characters of the end that a shortened line keeps: the end says what to do."""

_TENSOR = re.compile(r"[A-Za-z0-9._-]{1,200}")


def clean(text: str) -> str:
    r"""Return `text` with all characters that a terminal could interpret replaced by escapes.

    Control and format characters (escape sequences, line ends, direction marks) and lone
    surrogates become `\x1b`, `\n` and so on.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def one_line(text: str) -> str:
    """Return `text` as one clean line of at most `MAX_CHARACTERS`; a long text loses its middle."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[: MAX_CHARACTERS - END_CHARACTERS]} ... {text[-END_CHARACTERS:]}"
    return clean(text)


def is_tensor_name(value: object) -> bool:
    """Return whether `value` is fit to name a tensor: no folder, no control character."""
    return isinstance(value, str) and _TENSOR.fullmatch(value) is not None
