"""The flags of one algorithm: of the one that the command line names, and of no other.

    words --usual_config--> RunConfig at its defaults --add_own_group--> flags of the algorithm

Runs in the parent, before the command line is parsed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galamp.algorithms import flags_of_others
from galamp.cli import config_file
from galamp.cli.config_file import algorithm_in
from galamp.cli.presets import preset
from galamp.core import user_code
from galamp.core.algorithm_config import AlgorithmConfig, algorithm_config
from galamp.core.arguments import Parser
from galamp.core.config import RunConfig
from galamp.core.errors import UserError
from galamp.core.settings import check, settings
from galamp.storage.links import followed


def usual_config(words: Sequence[str]) -> RunConfig:
    """Return the defaults of a run of the algorithm that a command line names, a2c if it does not.

    A preset, a config file and another run name one, too. An unknown name is left to the check of
    all settings.

    Raises:
        UserError: it is one of the user's, and cannot be used, or only a file names it; or there is
            no such preset or file.
    """
    first = argparse.ArgumentParser(add_help=False)
    for flag in ("--algorithm", "--preset", "--config", "--like"):
        first.add_argument(flag, nargs="?")
    named = first.parse_known_args(words)[0]
    setting = next(s for s in settings(AlgorithmConfig) if s.name == "algorithm")
    holder, name = ("", named.algorithm) if named.algorithm else _named_elsewhere(named)
    try:
        name = check(setting, name)
    except UserError:
        return RunConfig()
    if holder:
        user_code.check_asked("--algorithm", name, "", holder, "add --algorithm")
    return RunConfig(algorithm=algorithm_config(name))


def _named_elsewhere(named: argparse.Namespace) -> tuple[str, Any]:
    """Return what else names an algorithm, of what is above the other, and that name or None.

    Raises:
        UserError: there is no such preset, or a file cannot be read.
    """
    if named.like:
        folder = followed(named.like)
        stored = config_file.read_stored(folder, f"--like {folder}")
        return f"--like {folder}: the run", algorithm_in(stored)
    if named.config:
        found = algorithm_in(config_file.read(Path(named.config)))
        if found is not None or not named.preset:
            return f"--config {named.config}", found
    return "", preset(named.preset).algorithm if named.preset else None


def flags_elsewhere(algorithm: AlgorithmConfig) -> dict[str, str]:
    """Return the flags that other algorithms have, with a line for each that says whose it is."""
    name = algorithm.algorithm
    return {
        flag: f"{flag} is a setting of --algorithm {other}, not of {name}: leave it out, or name "
        "that algorithm"
        for flag, other in flags_of_others(name).items()
    }


def add_own_group(parser: Parser, algorithm: AlgorithmConfig) -> Any:
    """Return the group of what one algorithm alone has, which says what it measures, too."""
    name = algorithm.algorithm
    measured = "; ".join(f"losses/{gauge}: {text}" for gauge, text in algorithm.gauges.items())
    return parser.add_argument_group(f"algorithm {name}", f"Its metrics: {measured}.")
