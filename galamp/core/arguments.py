"""Command-line parsers: the settings of a command become flags, and parsed flags become settings.

dataclass of options --add_flags--> parser --words--> Namespace --settings_from--> dataclass
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from galamp.core.errors import EXIT_USAGE, did_you_mean
from galamp.core.sanitize import one_line
from galamp.core.settings import Setting, check, settings, shown

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
        _add_flag(parser, setting)


def settings_from(options: argparse.Namespace, config: type[C]) -> C:
    """Return the checked settings.

    Raises:
        UserError: a wrong value.
    """
    return config(**{s.name: check(s, getattr(options, s.name)) for s in settings(config)})


def _add_flag(parser: argparse._ActionsContainer, setting: Setting) -> None:
    text = setting.option.help
    if setting.kind is bool:
        parser.add_argument(
            setting.flag, action=argparse.BooleanOptionalAction, default=setting.default, help=text
        )
        return
    if setting.default not in (None, ""):
        text += f" (default: {setting.default})"
    metavar = {int: "N", float: "X", str: "TEXT"}[setting.kind]
    if setting.option.choices:
        metavar = "{" + ",".join(setting.option.choices) + "}"
    parser.add_argument(setting.flag, metavar=metavar, default=setting.default, help=text)
