"""Settings of a program as the words of `galamp run`, checked before any process starts.

    game="Breakout", learners=2, pin=False --words_of--> run --game=Breakout --learners=2 --no-pin
                                           --config_of--> RunConfig, as the command line makes it

Names are those of the flags, with underscores. Runs in a user's program.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from galamp.core.config import RunConfig
from galamp.core.errors import UserError
from galamp.core.settings import flag_of, settings, shown

Single = str | int | float | bool | Path | None
Value = Single | Sequence[str] | Mapping[str, object]
"""Value of a setting; None: as if it were not given. Lists are for settings that take several, such
as `wrapper`, `sinks` and `device`; dicts for those of NAME=VALUE, such as `env_kwargs`."""

NOT_HERE = {
    "quiet": "a program shows snapshots itself",
    "json": "the result has the summary",
    "dry_run": "it is for the command line",
    "help": "it is for the command line",
    "on_hangup": "a program's run ends with it",
}
"""Flags of `galamp run` that a program cannot give, and why."""

SWITCHES = ("tensorboard", "track", "profile")
"""Flags that only turn something on: False leaves them out."""


def words_of(given: Mapping[str, Value]) -> list[str]:
    """Return the words of `galamp run` for settings by name; `config_of` checks them.

    Raises:
        UserError: a setting is not for programs, or a value cannot be a word.
    """
    repeated = {each.name for each in settings(RunConfig()) if each.option.texts}
    words = ["run"]
    for name, value in given.items():
        if name in NOT_HERE:
            raise UserError(f"{name}: not for programs, {NOT_HERE[name]}; leave it out")
        if name in SWITCHES and value is False:
            continue
        found = [each for each in _singly(name, value) if each is not None]
        if len(found) > 1 and name not in repeated:
            found = [",".join(map(str, found))]
        words += [_word(name, each) for each in found]
    return [*words, "--quiet", "--json"]


def env_id_of(env: str | Callable[..., Any]) -> str:
    """Return the name of an environment: as it is, or of a function that makes one.

    Raises:
        UserError: another process cannot import the function.
    """
    if isinstance(env, str):
        return env
    module, name = getattr(env, "__module__", None), getattr(env, "__qualname__", "<locals>")
    if not callable(env) or module in (None, "__main__") or "<" in name:
        raise UserError(
            f"env {shown(env)}: expected a name, or a function of a module that other processes "
            "can import; put it into a file of its own, and import it from there"
        )
    return f"{module}:{name}"


def _singly(name: str, value: Value) -> Sequence[Single]:
    """Return the values that are given by a word each.

    Raises:
        UserError: a value of a dict is nothing that JSON can express.
    """
    if isinstance(value, Mapping):
        try:
            return [f"{key}={json.dumps(each)}" for key, each in value.items()]
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: {error}; give it by a factory of your own") from None
    return list(value) if isinstance(value, list | tuple) else [cast(Single, value)]


def _word(name: str, value: Single) -> str:
    """Return one setting as a word; a value that begins with a dash stays with its flag."""
    if isinstance(value, bool):
        return flag_of(name if value else f"no_{name}")
    return f"{flag_of(name)}={value}"


def config_of(words: list[str]) -> RunConfig:
    """Return the settings of a run by its words, checked as the command line does.

    Raises:
        UserError: an unknown setting or a wrong value, in the words of the command line.
    """
    from galamp.cli.main import build_parser
    from galamp.cli.run_config import config_from

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser = build_parser(words)
            # A setting's whole name, not its beginning.
            _command_of(parser).allow_abbrev = False
            args = parser.parse_args(words)
    except SystemExit:
        text = " ".join(said.getvalue().split())
        raise UserError(text.removeprefix("galamp: ").partition("; see galamp")[0]) from None
    return config_from(args)


def _command_of(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser of `galamp run`."""
    actions = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    run: argparse.ArgumentParser = next(actions).choices["run"]
    return run
