"""Command-line parsers: the settings of a command become flags, and parsed flags become settings.

dataclass of options --add_flags--> parser --words--> Namespace --settings_from--> dataclass
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from galamp.core.errors import EXIT_USAGE, did_you_mean
from galamp.core.sanitize import one_line
from galamp.core.settings import AUTO, Setting, check, settings, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, with the nearest option named.

    Attributes:
        elsewhere: options that are unknown here for a reason -> a sentence with the reason.
    """

    elsewhere: Mapping[str, str] = {}

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(EXIT_USAGE, f"galamp: {one_line(message)}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here: the parent parser does not know this command's flags."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # The word after an unknown flag is most likely the flag's value.
            word = next((word for word in unknown if word.startswith("-")), unknown[0])
            flag = word.partition("=")[0]
            if flag in self.elsewhere:
                self.error(self.elsewhere[flag])
            flags = [name for action in self._actions for name in action.option_strings]
            kind = "option" if flag.startswith("-") else "argument"
            self.error(f"unknown {kind} {shown(flag)}{did_you_mean(flag, flags)}")
        return options, unknown


def add_flags(parser: argparse._ActionsContainer, config: type[Any]) -> None:
    """Add a flag to `parser` for every setting of the dataclass `config`."""
    for setting in settings(config):
        add_flag(parser, setting, dest=setting.name, default=setting.default)


def settings_from(options: argparse.Namespace, config: type[C]) -> C:
    """Return the checked settings.

    Raises:
        UserError: a wrong value.
    """
    return config(**{s.name: check(s, getattr(options, s.name)) for s in settings(config)})


def add_flag(
    parser: argparse._ActionsContainer,
    setting: Setting,
    *,
    dest: str,
    default: Any,
    none: str = "",
) -> None:
    """Add the flag of one setting.

    Args:
        parser: the parser, or a group of it.
        setting: the setting; the help shows its meaning and its own default.
        dest: its name among the parsed options.
        default: what stands there if the flag is not given.
        none: what the default None means, for the help.
    """
    text = setting.option.help
    usual = none if setting.default is None else _default(setting)
    if usual and "default" not in text:
        text += f" (default: {usual})"
    keywords: dict[str, Any] = {"dest": dest, "default": default, "help": text}
    if setting.option.texts:
        keywords |= _of_texts(setting)
        if isinstance(default, tuple):
            keywords["default"] = list(default)  # argparse adds to a copy
    elif setting.kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction
    else:
        keywords["metavar"] = _metavar(setting)
    parser.add_argument(setting.flag, **keywords)


def _of_texts(setting: Setting) -> dict[str, Any]:
    """Return how the parser takes a list: names one after each flag, other texts also in a row."""
    if setting.option.user_code:
        return {"action": "append", "metavar": setting.option.metavar}
    return {"action": "extend", "nargs": "+", "metavar": setting.option.metavar}


def _default(setting: Setting) -> str:
    """Return the default as text; empty where there is none to show."""
    known = setting.option
    if setting.kind is bool:
        return "yes" if setting.default else "no"
    if known.auto and setting.default == AUTO:
        return "auto"
    if known.texts:
        return "none"
    return f"{setting.default} {known.unit}".strip() if setting.default != "" else ""


def _metavar(setting: Setting) -> str:
    known = setting.option
    if not known.choices:
        return {int: "N", float: "X", str: "TEXT"}[setting.kind]
    more = [f"{known.prefix}PATH"] if known.prefix else []
    more += [known.user_code] if known.user_code else []
    return "{" + ",".join((*known.choices, *more)) + "}" + (",..." if known.several else "")
