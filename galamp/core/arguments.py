"""Command-line parsers: the settings of a command become flags, and parsed flags become settings.

dataclass of options --add_flags--> parser --words--> Namespace --settings_from--> dataclass
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from galamp.core.errors import EXIT_USAGE, NEAR, did_you_mean
from galamp.core.sanitize import one_line
from galamp.core.settings import AUTO, Setting, check, settings, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


MAX_METAVAR = 60
"""Longest list of choices that stands beside a flag; longer ones stand in the text, which wraps."""


class HelpText(argparse.HelpFormatter):
    """Help in which a switch stands once, as `--[no-]sync`, and indented paragraphs stay."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return switch_of(action)
        return super()._format_action_invocation(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.split("\n\n")
        return "\n\n".join(p if p.startswith(" ") else fill(p, width, indent) for p in parts)


def switch_of(action: argparse.BooleanOptionalAction) -> str:
    """Return how a switch that can be turned on and off stands in the help."""
    return "--[no-]" + action.option_strings[0].removeprefix("--")


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, with the nearest option named.

    Attributes:
        elsewhere: options that are unknown here for a reason -> a sentence with the reason.
    """

    elsewhere: Mapping[str, str] = {}

    def __init__(self, **known: Any) -> None:
        super().__init__(**{"formatter_class": HelpText, **known})

    @property
    def flags(self) -> list[str]:
        """Its flags, and those that turn switches off."""
        return list(self._option_string_actions)

    def put_help_last(self) -> None:
        """Have `--help`, and what else is in no group, stand at the end of the help."""
        self._action_groups.remove(self._optionals)
        self._action_groups.append(self._optionals)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(EXIT_USAGE, f"galamp: {one_line(message)}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here: the parent parser does not know this command's flags."""
        self._refuse_elsewhere(sys.argv[1:] if args is None else args)
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # The word after an unknown flag is most likely the flag's value.
            word = next((word for word in unknown if word.startswith("-")), unknown[0])
            flag = word.partition("=")[0]
            kind = "option" if flag.startswith("-") else "argument"
            near = did_you_mean(flag, self.flags, cutoff=NEAR)
            self.error(f"unknown {kind} {shown(flag)}{near}")
        return options, unknown

    def _refuse_elsewhere(self, words: Sequence[str]) -> None:
        """Refuse flags that are known elsewhere, before they are taken as another's beginning."""
        for word in words:
            if word == "--":
                return
            flag = word.partition("=")[0]
            if flag in self.elsewhere and flag not in self._option_string_actions:
                self.error(self.elsewhere[flag])


class CommandsFormatter(argparse.HelpFormatter):
    """Help with a line per command: argparse leaves no room for the indentation of long names."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add an argument, and make room for the commands of which it is one."""
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            wide = len(self._format_action_invocation(command)) + self._current_indent
            self._action_max_length = max(self._action_max_length, wide)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a `type` for `add_argument`: whole numbers from `low` to `high`."""

    def number(text: str) -> int:
        known = text.isascii() and text.isdigit() and len(text) <= len(str(high))
        if known and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {low} to {high}")

    return number


def add_flags(parser: argparse._ActionsContainer, config: type[Any]) -> None:
    """Add a flag to `parser` for every setting of the dataclass `config`."""
    for setting in settings(config):
        add_flag(parser, setting, dest=setting.name, default=setting.default)


def settings_from(args: argparse.Namespace, config: type[C]) -> C:
    """Return the checked settings.

    Raises:
        UserError: a wrong value.
    """
    return config(**{s.name: check(s, getattr(args, s.name)) for s in settings(config)})


def add_flag(
    parser: argparse._ActionsContainer,
    setting: Setting,
    *,
    dest: str,
    default: Any,
    none: str = "",
    hidden: bool = False,
) -> None:
    """Add the flag of one setting.

    Args:
        parser: the parser, or a group of it.
        setting: the setting; the help shows its meaning and its own default.
        dest: its name among the parsed options.
        default: what stands there if the flag is not given.
        none: what the default None means, for the help.
        hidden: whether the help says nothing of it.
    """
    text = setting.option.help
    usual = none if setting.default is None else _default(setting)
    metavar = "" if setting.kind is bool else _metavar(setting)
    if len(metavar) > MAX_METAVAR:
        text += f"; one of {', '.join(_forms(setting))}"
        metavar = "NAME"
    if usual and "default" not in text:
        text += f" (default: {usual})"
    keywords: dict[str, Any] = {"dest": dest, "default": default, "metavar": metavar}
    keywords["help"] = argparse.SUPPRESS if hidden else text
    if setting.option.texts:
        keywords |= _of_texts(setting)
        if isinstance(default, tuple):
            keywords["default"] = list(default)  # argparse adds to a copy
    elif setting.kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction
        del keywords["metavar"]
    parser.add_argument(setting.flag, **keywords)


def _of_texts(setting: Setting) -> dict[str, Any]:
    """Return how the parser takes a list: names one after each flag, other texts also in a row."""
    if setting.option.user_code:
        return {"action": "append"}
    return {"action": "extend", "nargs": "+"}


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
    if known.texts:
        return known.metavar
    if not known.choices:
        return {int: "N", float: "X", str: "TEXT"}[setting.kind]
    return "{" + ",".join(_forms(setting)) + "}" + (",..." if known.several else "")


def _forms(setting: Setting) -> list[str]:
    """Return the choices of a setting, and the forms that other values may have."""
    known = setting.option
    more = [f"{known.prefix}PATH"] if known.prefix else []
    more += [known.user_code] if known.user_code else []
    return [*known.choices, *more]
