"""`galamp config`: every setting of a run, a preset or the defaults, as a file for `--config`.

RUN/config.json, or a preset --config_file.written--> TOML on standard output
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from galamp.core.errors import EXIT_OK, UserError
from galamp.storage.links import followed


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp config`, and the command."""
    parser.description = (
        "Print every setting as TOML, each with where it is from: of a run, of a preset, or of the "
        "defaults.\n\n"
        "  galamp config runs/latest > run.toml\n"
        "  galamp run --config run.toml --seed 2"
    )
    parser.set_defaults(command=config_command)
    parser.add_argument("run", metavar="RUN", nargs="?", type=followed, help="a run folder")
    parser.add_argument("--preset", metavar="NAME", help="a preset, see galamp presets")


def config_command(args: argparse.Namespace) -> int:
    """`galamp config`."""
    if args.run is not None and args.preset is not None:
        raise UserError(f"--preset {args.preset}: give a run or a preset, not both")
    text = _of_run(args.run) if args.run is not None else _of_preset(args.preset)
    sys.stdout.write(text)
    return EXIT_OK


def _of_run(folder: Path) -> str:
    """Return the settings of a run, with its own copy of its graph; nothing of it is imported.

    Raises:
        UserError: it is no run folder, its config is damaged, or an algorithm of the user's has
            settings that only a command which imports it can know.
    """
    from galamp.cli.config_file import read_stored, written
    from galamp.core.config import from_dict, value_in
    from galamp.core.settings import settings
    from galamp.storage.inspection import FILE, GRAPH

    stored = read_stored(folder, str(folder))
    stored.pop("resolved", None)
    config = from_dict(stored)
    if ":" in config.algorithm.algorithm:
        name = config.algorithm.algorithm
        raise UserError(
            f"{folder}: the run is of your algorithm {name}, whose settings are not read here: use "
            f"galamp run --like {folder} --algorithm {name}"
        )
    if config.gossip.topology.startswith(FILE):
        gossip = replace(config.gossip, topology=f"{FILE}{os.path.abspath(folder / GRAPH)}")
        config = replace(config, gossip=gossip)
    changed = [s for s in settings(config) if value_in(config, s) != s.default]
    sources = {(setting.section, setting.name): str(folder) for setting in changed}
    return written(config, sources, f"{folder}, for galamp run --config FILE")


def _of_preset(name: str | None) -> str:
    """Return the settings of a preset, or the defaults.

    Raises:
        UserError: there is no such preset.
    """
    from galamp.cli.config_file import written
    from galamp.cli.presets import preset_values
    from galamp.core.algorithm_config import algorithm_config
    from galamp.core.config import RunConfig, from_settings

    if name is None:
        return written(RunConfig(), {}, "the defaults, for galamp run --config FILE")
    values = preset_values(name)
    algorithm = algorithm_config(values["algorithm", "algorithm"])
    config = from_settings(values, type(algorithm))
    sources = dict.fromkeys(values, f"preset {name}")
    return written(config, sources, f"preset {name}, for galamp run --config FILE")
