"""The flags of one algorithm: of the one that the command line names, and of no other.

    words --usual_config--> RunConfig at its defaults --add_own_group--> flags of the algorithm

Runs in the parent, before the command line is parsed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from galamp.algorithms import flags_of_others
from galamp.cli.presets import preset
from galamp.core.algorithm_config import AlgorithmConfig, algorithm_config
from galamp.core.arguments import Parser
from galamp.core.config import RunConfig
from galamp.core.errors import UserError
from galamp.core.settings import check, settings


def usual_config(words: Sequence[str]) -> RunConfig:
    """Return the defaults of a run of the algorithm that a command line names, a2c if it does not.

    A preset names one, too. An unknown name is left to the check of all settings.

    Raises:
        UserError: it is one of the user's, and cannot be used; or there is no such preset.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--algorithm", nargs="?")
    first.add_argument("--preset", nargs="?")
    named = first.parse_known_args(words)[0]
    name = named.algorithm
    if name is None and named.preset is not None:
        name = preset(named.preset).algorithm
    setting = next(s for s in settings(AlgorithmConfig) if s.name == "algorithm")
    try:
        name = check(setting, name)
    except UserError:
        return RunConfig()
    return RunConfig(algorithm=algorithm_config(name))


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
