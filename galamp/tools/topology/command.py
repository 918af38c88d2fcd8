"""`galamp topology`: analyse a gossip graph, and plan a run with it.

    arguments --> TopologyConfig --analysis.plan--> Plan --> text or JSON, and a figure on request

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from galamp.core.arguments import add_flags, settings_from
from galamp.core.errors import EXIT_OK, UserError, did_you_mean
from galamp.core.settings import option
from galamp.tools.figures import add_figure_flags, figure_file

if TYPE_CHECKING:
    from galamp.tools.topology.analysis import Plan


@dataclass(frozen=True)
class TopologyConfig:
    """Settings of the analysis."""

    learners: int = option(8, "learners", low=2, high=16_384)
    nodes: int = option(
        1, "machines; --learners counts the learners of all of them", low=1, high=4096
    )
    nodes_every: int = option(
        4, "in hierarchical: exchange between machines every so many rounds", unit="rounds", low=2,
        high=10**6,
    )  # fmt: skip
    wire: str = option("float32", "numbers as they go between machines", names=("float32", "bf16"))
    gossip_weights: str = option(
        "auto",
        "weights of the peers in an average",
        names=("auto", "uniform", "metropolis"),
    )
    global_average_every: int | None = option(
        None,
        "every so many rounds, average over all learners (default: never)",
        unit="rounds",
        low=1,
        high=10**6,
    )
    seed: int = option(1, "seed of random graphs", low=0, high=2**31 - 1)
    parameters: int = option(
        865_413,
        "float32 parameters of the network; the default is the paper's for Atari with 4 actions, "
        "Nature's has 1,686,693",
        low=1,
        high=10**12,
    )
    rounds_per_s: float = option(
        10.0, "gossip rounds of a learner per second", unit="1/s", low=1e-6, high=1e6
    )
    update_norm: float = option(
        0.05, "L2 norm of the update that a learner makes between two rounds", low=0.0, high=1e9
    )
    delay: int = option(0, "how many rounds old a message is", unit="rounds", low=0, high=100)
    json: bool = option(False, "print everything as one JSON object")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp topology`, and the command."""
    parser.set_defaults(command=topology_command)
    parser.add_argument(
        "name", metavar="NAME", help="a gossip graph, such as ring or exponential, or file:PATH"
    )
    add_flags(parser, TopologyConfig)
    add_figure_flags(parser, "draw the graph, too", short="-o", former="--png")


def topology_command(args: argparse.Namespace) -> int:
    """`galamp topology`."""
    config = settings_from(args, TopologyConfig)
    file = figure_file(args)
    # numpy reads it when it loads: on a busy machine several threads take ten times as long as one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    made = _plan(args.name, config)
    if file is not None:
        from galamp.tools.topology.figure import draw

        file.write(draw(made, file.format))
    if config.json:
        from galamp.tools.topology.analysis import as_json

        print(json.dumps(as_json(made)))
    else:
        from galamp.tools.topology.text_report import lines_of

        print("\n".join(lines_of(made)))
    return EXIT_OK


def _plan(name: str, config: TopologyConfig) -> Plan:
    from galamp.gossip.topologies import FILE, TOPOLOGIES, make_topology
    from galamp.tools.topology.analysis import AnalysisRequest, plan

    if name not in TOPOLOGIES and not name.startswith(FILE):
        raise UserError(
            f"topology {name!r:.80}: expected one of {', '.join(TOPOLOGIES)}, or {FILE}PATH"
            f"{did_you_mean(name, TOPOLOGIES)}"
        )
    if config.learners % config.nodes:
        raise UserError(
            f"--learners {config.learners}: expected a multiple of --nodes {config.nodes}"
        )
    topology = make_topology(
        name,
        config.learners,
        config.gossip_weights,
        config.seed,
        config.global_average_every,
        nodes=config.nodes,
        nodes_every=config.nodes_every,
    )
    every = config.global_average_every
    question = AnalysisRequest(
        name=name if every is None else f"{name}, all every {every} rounds",
        gossip_weights=config.gossip_weights,
        parameters=config.parameters,
        rounds_per_s=config.rounds_per_s,
        update_norm=config.update_norm,
        delay=config.delay,
        nodes=config.nodes,
        wire=config.wire,
    )
    return plan(topology, question)
