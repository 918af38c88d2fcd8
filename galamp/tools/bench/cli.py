"""The command line of bin/bench: arguments to systems, measurements to a table.

bin/bench run        galamp alone, repeated
bin/bench limit      galamp and the bare parts of training, taking turns
bin/bench scale      galamp with more and more learners and environments
bin/bench pipeline   V-trace with --pipeline and without, taking turns
bin/bench nodes      one run on several nodes of this machine and on one, taking turns
bin/bench start      from the command to the first agent steps
bin/bench dashboard  a run with its dashboard shown and held, taking turns
bin/bench neighbour  another program on the same machine, beside a run and without
bin/bench forward    the forward pass by hand against plain autograd
bin/bench gossip     publishing and mixing, per topology
bin/bench gpu        all checks for a machine with GPUs, within nine minutes
bin/bench peers      galamp and its peers, in turns
bin/bench learning   known tasks, trained to known bars
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from galamp.core import installation, isolation
from galamp.core.arguments import Parser
from galamp.core.errors import EXIT_OK, EXIT_SIGINT, GalampError, refusal
from galamp.core.leaving import leaving_on_signals
from galamp.telemetry.display.streams import replace_unsayable
from galamp.tools.bench.commands import (
    dashboard_command,
    forward_command,
    gossip_command,
    gpu_command,
    learning_command,
    limit_command,
    neighbour_command,
    nodes_command,
    peers_command,
    pipeline_command,
    run_command,
    say,
    scale_command,
    start_command,
)
from galamp.tools.bench.options import (
    add_dashboard,
    add_forward,
    add_gossip,
    add_gpu,
    add_learning,
    add_limit,
    add_measuring,
    add_neighbour,
    add_nodes,
    add_peers,
    add_pipeline,
    add_scale,
    add_start,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    replace_unsayable()
    words = list(sys.argv[1:] if arguments is None else arguments)
    args = build_parser().parse_args(words)
    args.words = words
    for line in isolation.warnings():
        say(f"galamp: {line}\n")
    try:
        with leaving_on_signals(), installation.held(["bench", *words]):
            code = args.command(args)
    except GalampError as error:
        say(f"galamp: bench: {error}\n")
        return error.exit_code
    except OSError as error:
        text, code = refusal(error)
        say(f"galamp: bench: {text}\n")
        return code
    except KeyboardInterrupt:
        say("\ngalamp: bench: interrupted\n")
        return EXIT_SIGINT
    return EXIT_OK if code is None else int(code)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(prog="bin/bench", description="Measure speed and learning.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name, (text, add_options, command) in COMMANDS.items():
        one = commands.add_parser(
            name, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        one.set_defaults(command=command)
        add_options(one)
    return parser


Command = tuple[
    str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int | None]
]

COMMANDS: dict[str, Command] = {
    "run": ("galamp alone, repeated", add_measuring, run_command),
    "limit": ("galamp and the bare parts of training, in turns", add_limit, limit_command),
    "scale": ("more and more learners and environments", add_scale, scale_command),
    "pipeline": ("V-trace with --pipeline and without, in turns", add_pipeline, pipeline_command),
    "nodes": ("one run on several nodes of this machine, and on one", add_nodes, nodes_command),
    "start": ("from the command to the first agent steps", add_start, start_command),
    "dashboard": ("a run with its dashboard, and without", add_dashboard, dashboard_command),
    "neighbour": ("another program beside a run", add_neighbour, neighbour_command),
    "forward": ("the forward pass by hand, against autograd", add_forward, forward_command),
    "gossip": ("publishing and mixing, per topology", add_gossip, gossip_command),
    "gpu": ("all that is to be known on a machine with GPUs", add_gpu, gpu_command),
    "peers": ("galamp and its peers, taking turns", add_peers, peers_command),
    "learning": ("known tasks, trained to known bars", add_learning, learning_command),
}
"""Name -> one line of help, the function that adds its options, and the one that runs it; the
latter returns the exit code, if that may be another than 0."""
