"""The config of a command line: words to checked settings, and these to a config.

    options --_flags--> checked settings --layers.under_flags--> RunConfig
                              with --resume: --> training.resume_config --> RunConfig

Runs in the parent. Only light modules are imported at the top, as in the command line itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galamp.cli.layers import (
    ALGORITHM,
    Given,
    Sources,
    flag_sources,
    refuse_beside_resume,
    under_flags,
)
from galamp.cli.presets import Values
from galamp.core.config import RunConfig, from_settings, value_in
from galamp.core.errors import UserError
from galamp.core.older_configs import RENAMED, renamed
from galamp.core.settings import Setting, check, flag_of, settings, shown
from galamp.telemetry.display.streams import print_safely

if TYPE_CHECKING:
    from galamp.storage.run_folder import RunFolder, StoredChoices

SINK_FLAGS = {"tensorboard": "tensorboard", "track": "wandb"}
"""Flag -> the metric sink that it adds to those of the run."""
WANDB_PROJECT = ("report", "wandb_project")
MAX_STALENESS, SYNC = ("gossip", "max_staleness"), ("gossip", "sync")


def dest_of(section: str, name: str) -> str:
    """Return what a setting is called among the parsed options."""
    return f"{section}.{name}"


def config_from(args: argparse.Namespace) -> RunConfig:
    """Return the config of the options, merged into the stored one for a resumed run.

    Raises:
        UserError: every wrong value, one line each.
    """
    return _checked(args, _over_stored(args, _given(args).values))


def config_with_sources(args: argparse.Namespace) -> tuple[RunConfig, Sources]:
    """Return the config of the options, and where each setting is from that is no default.

    Raises:
        UserError: every wrong value, one line each.
    """
    given = _given(args)
    config = _checked(args, _over_stored(args, given.values))
    stored: Sources = {}
    if args.resume is not None:
        stored = {(s.section, s.name): str(args.resume) for s in settings(config)}
    usual = {(s.section, s.name): s.default for s in settings(config)} | {
        ALGORITHM: RunConfig().algorithm.algorithm
    }
    changed = {
        key for s in settings(config) if value_in(config, s) != usual[key := (s.section, s.name)]
    }
    return config, {k: v for k, v in (stored | given.sources).items() if k in changed}


@contextlib.contextmanager
def configured(args: argparse.Namespace) -> Iterator[tuple[RunConfig, RunFolder | None]]:
    """Yield the config of the options, and the locked folder of the run that is resumed.

    The lock comes first: a run that is just ending still writes its config and its last checkpoint.

    Raises:
        UserError: every wrong value, one line each; or the folder is in use.
    """
    given = _given(args).values
    if args.resume is None:
        yield _checked(args, from_settings(given, type(args.usual.algorithm))), None
        return
    from galamp.storage.run_folder import RunFolder

    _check_run_folder(args.resume)
    with contextlib.closing(RunFolder.open(args.resume)) as folder:
        folder.kept = kept_of(args)
        yield _checked(args, _over_stored(args, given)), folder


def kept_of(args: argparse.Namespace) -> StoredChoices:
    """Return which stored choices a resumed run keeps, given the command line."""
    from galamp.storage.run_folder import StoredChoices

    if args.resume is None:
        return StoredChoices()
    from galamp.training.resume_config import kept_choices

    given = (dest.partition(".") for dest in vars(args))
    return kept_choices(args.resume, {(section, name) for section, _, name in given})


def _given(args: argparse.Namespace) -> Given:
    """Return the settings that the command line gives, by flags and by what it names.

    Raises:
        UserError: every wrong value, one line each.
    """
    flags = _flags(args)
    if args.resume is None:
        return under_flags(args, flags)
    refuse_beside_resume(args)
    return Given(flags, flag_sources(flags))


def _flags(args: argparse.Namespace) -> Values:
    """Return the settings that flags give.

    Raises:
        UserError: every wrong value, one line each.
    """
    known = {(setting.section, setting.name): setting for setting in settings(args.usual)}
    values: Values = {}
    problems: list[str] = []
    for dest, given in vars(args).items():
        section, dot, former = dest.partition(".")
        if not dot:
            continue
        name, value = former, given
        if (section, former) not in known or (section, former) not in RENAMED:
            name, value = renamed(section, former, given)
        setting = known[section, name]
        if name != former and dest_of(section, name) in args:
            problems.append(f"{flag_of(former)} and {setting.flag}: are the same; give the latter")
            continue
        _print_renamed(former, given, setting, value)
        try:
            values[section, name] = check(setting, value)
        except UserError as error:
            problems.append(str(error))
    if args.game is not None:
        if ("environment", "env_id") in values:
            problems.append("--game and --env-id: both name the environment; give one of them")
        values["environment", "env_id"] = args.game
    problems += _environment_problems(values, args.game is not None)
    if problems:
        raise UserError(*problems)
    return values


def _print_renamed(former: str, given: Any, setting: Setting, value: Any) -> None:
    """Print the name of today where the command line has a former one."""
    if isinstance(given, bool) and value != given:  # a switch that has become a choice
        text = flag_of(former if given else f"no_{former}")
        print_safely(f"galamp: {text} is now called {setting.flag} {value}\n", sys.stderr)
        return
    if former != setting.name:
        print_safely(f"galamp: {flag_of(former)} is now called {setting.flag}\n", sys.stderr)
    if value != given:
        print_safely(f"galamp: {setting.flag} {given} is now called {value}\n", sys.stderr)


def _over_stored(args: argparse.Namespace, values: Values) -> RunConfig:
    if args.resume is None:
        return from_settings(values, type(args.usual.algorithm))
    _check_run_folder(args.resume)
    from galamp.training.resume_config import resumed_config

    return resumed_config(args.resume, values)


def _checked(args: argparse.Namespace, config: RunConfig) -> RunConfig:
    """Return `config` with the sinks of short flags; all are loaded: what is missing is told now.

    Raises:
        UserError: a sink cannot be loaded; or a flag has no meaning beside another.
    """
    _refuse_bound_in_lock_step(args, config)
    from galamp.telemetry.sinks import load_sinks

    short = [sink for flag, sink in SINK_FLAGS.items() if getattr(args, flag, False)]
    if dest_of(*WANDB_PROJECT) in args:
        short.append(SINK_FLAGS["track"])
    names = ",".join(dict.fromkeys([*config.report.sinks.split(","), *short]))
    load_sinks(names)
    return replace(config, report=replace(config.report, sinks=names))


def _refuse_bound_in_lock_step(args: argparse.Namespace, config: RunConfig) -> None:
    """Refuse a staleness bound on the command line of a run in which everybody always waits.

    A stored config, a file or a preset may have both: there `sync` has always won.
    """
    bound = config.gossip.max_staleness
    if dest_of(*MAX_STALENESS) in args and config.gossip.sync and bound != 0:
        asked = dest_of(*SYNC) in args
        remedy = "leave one of the two out" if asked else "leave it out, or add --no-sync"
        raise UserError(
            f"--max-staleness {'inf' if bound is None else bound}: has no meaning in lock-step "
            f"(--sync), where a learner waits in every round; {remedy}"
        )


def _check_run_folder(folder: Path) -> None:
    from galamp.storage.run_folder import CONFIG

    if not os.path.isfile(folder / CONFIG):
        raise UserError(f"--resume {folder}: no run folder (it has no {CONFIG})")


def _environment_problems(values: Values, game: bool) -> list[str]:
    """Check the environment before torch is imported: a typing error is reported at once."""
    if ("environment", "env_id") not in values:
        return []
    from galamp.environments.names import ATARI, canonical_env_id

    name = values["environment", "env_id"]
    try:
        known = canonical_env_id(name)
    except UserError as error:
        return [f"{'--game' if game else '--env-id'}: {error}"]
    if game and not known.startswith(ATARI):
        return [f"--game {shown(name)}: expected an Atari game; other environments go by --env-id"]
    return []
