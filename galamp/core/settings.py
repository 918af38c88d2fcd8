"""Settings: dataclass fields with default, unit, range, choices and one line of help.

    option(...) in a dataclass --settings--> Setting --check--> a value in range, or a UserError

`check` validates values of the command line and of stored configs. This module imports only
`errors` from galamp, so it is cheap for every process.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from galamp.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_CHARACTERS_SHOWN = 60

FACTORY = "package.module:factory"
"""Name of a user's function, or of a class that is called, as messages show it."""
CLASS = "package.module:Class"
"""Name of a user's class, as messages show it."""

SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
"""Units of a time on the command line."""

COUNTS_OF = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
"""Suffixes of a whole number on the command line."""

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_USER_CODE = re.compile(f"{_DOTTED}:{_DOTTED}")

Texts = Callable[[str, tuple[str, ...]], tuple[str, ...]]
"""Takes a flag and the texts behind it; raises a `UserError`."""

AUTO = 0
"""Value of a count that galamp chooses (`auto` on the command line)."""


@dataclass(frozen=True)
class Option:
    """Properties of one setting besides its type and default."""

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    registry: str = ""
    names: tuple[str, ...] = ()
    auto: bool = False
    none: str = ""
    prefix: str = ""
    user_code: str = ""
    """`FACTORY` or `CLASS` where the name of something of the user's is allowed, too."""
    several: bool = False
    """Whether it is a list of names, with commas."""
    stored: bool = True
    """Whether it belongs to the run, and not only to the command that shows it."""
    duration: bool = False
    """Whether it is a time in seconds, which may be given as `90s`, `30m`, `2h` or `1d`."""
    texts: Texts | None = None
    """What checks a list of texts, which are given apart, and brings it into its one form."""
    metavar: str = ""
    """What one of the `texts` is called in the help."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed names; empty if any value in range is allowed."""
        if not self.registry:
            return self.names
        module, _, table = self.registry.partition(":")
        return (*self.names, *getattr(importlib.import_module(module), table))


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    registry: str = "",
    names: tuple[str, ...] = (),
    auto: bool = False,
    none: str = "",
    prefix: str = "",
    user_code: str = "",
    several: bool = False,
    stored: bool = True,
    duration: bool = False,
    texts: Texts | None = None,
    metavar: str = "",
) -> Any:
    """Declare a setting: a dataclass field with an `Option`.

    `low` and `high` are inclusive; `names` and the keys of `registry` (`module:TABLE`, looked up
    when asked for) are the choices, besides any text that begins with `prefix`, and names of the
    form `user_code` (`FACTORY` or `CLASS`); of `several`, a list can be given, with commas; `auto`
    allows the word `auto` (stored as `AUTO`); `none` is the word for None; what is not `stored` is
    the caller's; a `duration` takes a number with a unit; `texts` checks a list of texts that are
    given apart, each a `metavar`.
    """
    known = Option(
        help,
        unit,
        low,
        high,
        registry,
        names,
        auto,
        none,
        prefix,
        user_code,
        several,
        stored,
        duration,
        texts,
        metavar,
    )
    return field(default=default, metadata={"option": known})


@dataclass(frozen=True)
class Setting:
    """Setting: one leaf of a config, with its section, name, type and `Option`."""

    section: str
    name: str
    kind: type
    optional: bool
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """Flag on the command line."""
        return flag_of(self.name)


def flag_of(name: str) -> str:
    """Return the flag of the setting `name` on the command line."""
    return "--" + name.replace("_", "-")


def settings(config: type | DataclassInstance, section: str = "") -> Iterator[Setting]:
    """Yield every leaf setting of `config`, sections in order of declaration.

    Of an instance, sections have what theirs have: a section may be of a subclass.
    """
    kind_of_all = config if isinstance(config, type) else type(config)
    hints = typing.get_type_hints(kind_of_all)
    for leaf in dataclasses.fields(kind_of_all):
        hint = hints[leaf.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            section_of_it = hint if config is kind_of_all else getattr(config, leaf.name)
            yield from settings(section_of_it, leaf.name)
            continue
        optional = isinstance(hint, types.UnionType)
        kind = (
            next(k for k in typing.get_args(hint) if k is not types.NoneType) if optional else hint
        )
        kind = typing.get_origin(kind) or kind  # of tuple[str, ...]
        yield Setting(section, leaf.name, kind, optional, leaf.default, leaf.metadata["option"])


def check(setting: Setting, value: Any) -> Any:
    """Return `value` in the setting's type.

    Raises:
        UserError: the value has the wrong type or lies outside the range or choices.
    """
    known = setting.option
    if setting.optional and (value is None or (known.none and value == known.none)):
        return None
    if known.auto and (value == "auto" or (type(value) is int and value == AUTO)):
        return AUTO
    if known.texts:
        return known.texts(setting.flag, _texts(setting, value))
    value = _convert(setting, value)
    if known.several:
        return _listed(setting, str(value))
    if known.prefix and isinstance(value, str) and value.startswith(known.prefix):
        return value
    if known.user_code and is_user_code(value):
        return value
    if known.choices and value not in known.choices:
        more = f", or {known.prefix}..." if known.prefix else ""
        more += f", or {known.user_code} for one of yours" if known.user_code else ""
        raise UserError(
            f"{setting.flag} {shown(value)}: expected one of {', '.join(known.choices)}{more}"
            f"{did_you_mean(str(value), known.choices)}"
        )
    low, high = known.low, known.high
    if (low is not None and value < low) or (high is not None and value > high):
        raise UserError(f"{setting.flag} {shown(value)}: expected {allowed(setting)}")
    return value


def is_user_code(value: Any) -> bool:
    """Whether `value` has the form `package.module:name`; nothing is imported."""
    return isinstance(value, str) and _USER_CODE.fullmatch(value) is not None


def _listed(setting: Setting, text: str) -> str:
    """Return a list of names in its one form: without blanks, each only once."""
    choices, form = setting.option.choices, setting.option.user_code
    names = dict.fromkeys(filter(None, map(str.strip, text.split(","))))
    wrong = [name for name in names if name not in choices and not (form and is_user_code(name))]
    if wrong or not names:
        raise UserError(
            f"{setting.flag} {shown(text)}: expected one or more of {', '.join(choices)}"
            + (f", or {form}" if form else "")
            + ", with commas between them"
            + "".join(did_you_mean(name, choices) for name in wrong[:1])
        )
    return ",".join(names)


def _texts(setting: Setting, value: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple, after a look at their kind."""
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise UserError(f"{setting.flag} {shown(value)}: expected {allowed(setting)}")
    return tuple(value)


def _convert(setting: Setting, value: Any) -> Any:
    wrong = UserError(f"{setting.flag} {shown(value)}: expected {allowed(setting)}")
    if setting.kind is bool or isinstance(value, bool):
        if setting.kind is bool and isinstance(value, bool):
            return value
        raise wrong
    if setting.kind is str:
        if isinstance(value, str):
            return value
        raise wrong
    try:
        if setting.option.duration and isinstance(value, str):
            return _seconds(value)
        return _whole(str(value)) if setting.kind is int else _finite(str(value))
    except ValueError:
        raise wrong from None


def _whole(text: str) -> int:
    """Return an integer; `1e6`, `2.0`, `500k` and `1.5M` are accepted."""
    try:
        return int(text)
    except ValueError:
        times = COUNTS_OF.get(text[-1:], 1)
        number = round(_finite(text[:-1]) * times, 6) if times > 1 else _finite(text)
        if not number.is_integer():
            raise
        return int(number)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    """Return the seconds of a time such as `90`, `90s`, `1.5h`."""
    unit = text[-1:].lower()
    if unit in SECONDS_OF:
        return _finite(text[:-1]) * SECONDS_OF[unit]
    return _finite(text)


def duration_text(seconds: float) -> str:
    """Return a time as it is given on the command line, in its largest whole unit: `2h`, `90s`."""
    for unit in reversed(SECONDS_OF):
        number = seconds / SECONDS_OF[unit]
        if number.is_integer() and number:
            return f"{int(number)}{unit}"
    return f"{seconds:g}s"


def shown(value: Any) -> str:
    """Return a user's value as text for one line of a message."""
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    if len(text) > MAX_CHARACTERS_SHOWN:
        text = text[:MAX_CHARACTERS_SHOWN] + "..."
    return text if text.isprintable() and text.strip() else repr(text)


def allowed(setting: Setting) -> str:
    """Return the accepted values of a setting, such as `a whole number from 1 to 4096`."""
    known = setting.option
    if known.texts:
        return f"texts, each {known.metavar}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[
        setting.kind
    ]
    if known.duration:
        return f"a time such as 90s, 30m, 2h or 1d, of at least 1s, or {known.none}"
    low, high = known.low, known.high
    if low is not None and high is not None:
        words += f" from {_exact(low)} to {_exact(high)}"
    elif low is not None:
        words += f" of at least {_exact(low)}"
    if known.unit:
        words += f" ({known.unit})"
    return words + (" or auto" if known.auto else "") + (f" or {known.none}" if known.none else "")


def _exact(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"
