"""A command's settings as flags of its parser, and back.

dataclass of options --add_flags--> parser --words--> Namespace --settings_from--> dataclass
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeVar

from galamp.options import Setting, check, settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


def add_flags(parser: argparse._ActionsContainer, config: type[Any]) -> None:
    """Give `parser` a flag for every option of the dataclass `config`."""
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
