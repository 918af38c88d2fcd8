"""Settings of a run that differ from their defaults.

config.json --differing--> those that were set, and those that galamp may have chosen --> flags
"""

from __future__ import annotations

import shlex
import textwrap
from typing import Any, NamedTuple

from galamp.core.config import from_dict
from galamp.core.errors import UserError
from galamp.core.sanitize import clean
from galamp.core.settings import AUTO, Setting, duration_text, settings

PLACE = ("run_dir", "name")
"""Settings that only say where the run folder is."""
Values = list[tuple[Setting, Any]]


class Differing(NamedTuple):
    """Settings with other values than their defaults.

    Attributes:
        given: those whose default is a value, so somebody gave another one.
        open: those whose default is a choice of galamp's, and so may have been made by it.
    """

    given: Values
    open: Values


def differing(stored: dict[str, Any]) -> Differing:
    """Return what differs from the defaults in the content of a config.json.

    Settings of an algorithm of the user's are left out: no module is imported for this.

    Raises:
        UserError: the config is missing or damaged.
    """
    values = {name: value for name, value in stored.items() if name != "resolved"}
    if not values:
        raise UserError("it is missing or damaged")
    config = from_dict(values)
    found = Differing([], [])
    for setting in settings(config):
        section = getattr(config, setting.section) if setting.section else config
        value = getattr(section, setting.name)
        if setting.option.stored and setting.name not in PLACE and value != setting.default:
            (found.open if _is_open(setting) else found.given).append((setting, value))
    return found


def flags_of(values: Values) -> list[str]:
    """Return settings as flags of the command line."""
    return [_flag(setting, value) for setting, value in values]


def wrapped(flags: list[str], width: int) -> list[str]:
    """Return the flags in lines of at most `width` characters, no flag broken."""
    joined = "  ".join(flag.replace(" ", "\N{NO-BREAK SPACE}") for flag in flags)
    lines = textwrap.wrap(joined, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _is_open(setting: Setting) -> bool:
    if setting.option.auto:
        return bool(setting.default == AUTO)
    return (setting.default is None and not setting.option.none) or setting.default in ("", "auto")


def _flag(setting: Setting, value: Any) -> str:
    if isinstance(value, bool):
        return setting.flag if value else setting.flag.replace("--", "--no-", 1)
    if value is None:
        return f"{setting.flag} {setting.option.none or 'none'}"
    if setting.option.duration:
        return f"{setting.flag} {duration_text(value)}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{setting.flag} {clean(shlex.quote(text))}"
