"""`galamp keys`: make the keys and certificates with which the machines of a run know each other.

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from galamp.core.arguments import add_flags, settings_from
from galamp.core.cluster_config import MAX_NODES
from galamp.core.errors import EXIT_OK
from galamp.core.settings import option, shown


@dataclass(frozen=True)
class KeysConfig:
    """Settings of the keys."""

    nodes: int = option(2, "machines of the run", low=2, high=MAX_NODES)
    days: int = option(365, "days until they expire", unit="days", low=1, high=3650)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp keys`, and the command."""
    parser.description = (
        "Make a folder with a key and a certificate for each machine of a run, by which they know "
        "one another: see galamp help cluster."
    )
    parser.set_defaults(command=keys_command)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to make")
    add_flags(parser, KeysConfig)


def keys_command(args: argparse.Namespace) -> int:
    """`galamp keys`."""
    config = settings_from(args, KeysConfig)
    from galamp.core.node_keys import names_of
    from galamp.tools.keys.certificates import make_keys

    make_keys(args.folder, config.nodes, config.days)
    print(f"keys of {config.nodes} machines, for {config.days} days, in {shown(args.folder)}")
    for node in range(config.nodes):
        print(f"  machine {node} needs {', '.join(names_of(node))}")
    print("copy to each machine its own three files only, and start it with --keys DIR")
    return EXIT_OK
