"""Foreign text made fit to be shown: nothing in it steers a terminal, and a line stays a line.

Used by every process that tells people something. Pure functions from text to text.
"""

from __future__ import annotations

import re

MOST_CHARACTERS = 1000
"""Room for every choice of a setting, or for a path of usual length."""

END_CHARACTERS = 300
"""So many of them are kept for the end, which says what to do."""

_TENSOR = re.compile(r"[A-Za-z0-9._-]{1,200}")


def clean(text: str) -> str:
    r"""Return `text` with everything that a terminal could act on shown as an escape.

    Control and format characters (escape sequences, line ends, direction marks) and lone
    surrogates become `\x1b`, `\n` and so on.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def one_line(text: str) -> str:
    """Return `text` as one clean line of bearable length, the middle cut out if need be."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS - END_CHARACTERS]} ... {text[-END_CHARACTERS:]}"
    return clean(text)


def is_tensor_name(value: object) -> bool:
    """Return whether `value` is fit to name a tensor: no folder, no control character."""
    return isinstance(value, str) and _TENSOR.fullmatch(value) is not None
