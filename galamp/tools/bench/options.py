"""Options of the bench's commands; `galamp.tools.bench.commands` gives them their meaning."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from pathlib import Path

from galamp.gossip.cluster import PORTS, ZENOH
from galamp.tools.bench import peers
from galamp.tools.bench.learning_tasks import TASKS

NETWORKS = ("gala", "nature")
"""For frames of 84 x 84 pixels, as the other programs have them."""
PRECISIONS = ("float32", "bf16")
WIRES = ("float32", "bf16")
NATURE_PARAMETERS = 1_686_693
"""Parameters of the Nature network with Breakout's four actions."""


def add_measuring(parser: argparse.ArgumentParser, *, num_envs: int | None = 16) -> None:
    """Add the options of the commands that measure one workload; None lets the command choose."""
    add_timing(parser)
    add = parser.add_argument
    add("--learners", metavar="N", type=_count, default=2, help="galamp's actor-learners")
    text = "environments per learner; a peer gets those of all learners together"
    add("--num-envs", metavar="N", type=_count, default=num_envs, help=text)
    text = "what the network computes in; a peer that has no choice computes in float32"
    add("--precision", choices=PRECISIONS, default="float32", help=text)


def add_game(parser: argparse.ArgumentParser) -> None:
    """Add the game and the network."""
    add = parser.add_argument
    add("--game", metavar="NAME", default="Breakout", help="Atari game")
    add("--network", choices=NETWORKS, default="nature", help="network that is trained")


def add_one_run(parser: argparse.ArgumentParser) -> None:
    """Add the workload of the commands that measure within, or beside, one run."""
    add_game(parser)
    add = parser.add_argument
    add("--learners", metavar="N", type=_count, default=2, help="learners")
    add("--num-envs", metavar="N", type=_count, default=16, help="environments per learner")


def add_timing(parser: argparse.ArgumentParser, *, seconds: float = 30.0, repeats: int = 3) -> None:
    """Add the workload, the duration and the number of repetitions."""
    add_game(parser)
    add = parser.add_argument
    add("--seconds", metavar="S", type=_duration, default=seconds, help="measured per repetition")
    add("--warm-up", metavar="S", type=_duration, default=8.0, help="left out before that")
    add("--repeats", metavar="N", type=_count, default=repeats, help="repetitions")
    add("--json", metavar="FILE", type=Path, help="append one JSON row per measurement")


def add_scale(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scale`."""
    add_timing(parser)
    add = parser.add_argument
    add("--learners", metavar="N,N,...", type=_counts, default=(1, 2, 4, 8), help="learners")
    text = "environments per learner"
    add("--num-envs", metavar="N,N,...", type=_counts, default=(8, 16, 64), help=text)


def add_start(parser: argparse.ArgumentParser) -> None:
    """Add the options of `start`."""
    add_game(parser)
    add = parser.add_argument
    add("--learners", metavar="N,N,...", type=_counts, default=(1, 2, 4), help="learners")
    add("--num-envs", metavar="N", type=_count, default=16, help="environments per learner")
    add("--repeats", metavar="N", type=_count, default=5, help="repetitions")


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pipeline`."""
    add_measuring(parser)
    text = "what learns: cpu, or GPUs, as galamp run takes them"
    parser.add_argument("--device", metavar="NAME", default="cpu", help=text)


def add_nodes(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nodes`."""
    add_timing(parser)
    add = parser.add_argument
    add("--nodes", metavar="N", type=_count, default=2, help="nodes, on this machine")
    add("--learners", metavar="N", type=_count, default=4, help="learners of all nodes together")
    add("--num-envs", metavar="N", type=_count, default=8, help="environments per learner")
    text = "what carries vectors between nodes"
    add("--transport", choices=sorted(PORTS), default=ZENOH, help=text)
    text = "numbers on the wire"
    add("--wire", choices=WIRES, default=WIRES[0], help=text)


def add_dashboard(parser: argparse.ArgumentParser) -> None:
    """Add the options of `dashboard`."""
    add_one_run(parser)
    add = parser.add_argument
    text = "pairs of turns of about 9 s, with the dashboard and without; 6 or more"
    add("--pairs", metavar="N", type=_count, default=40, help=text)


def add_neighbour(parser: argparse.ArgumentParser) -> None:
    """Add the options of `neighbour`."""
    add_one_run(parser)
    add = parser.add_argument
    add("--seconds", metavar="S", type=_duration, default=15.0, help="measured per repetition")
    add("--repeats", metavar="N", type=_count, default=2, help="repetitions")


def add_forward(parser: argparse.ArgumentParser) -> None:
    """Add the options of `forward`."""
    add_game(parser)
    add = parser.add_argument
    add("--num-envs", metavar="N", type=_count, default=16, help="environments")
    add("--precision", choices=PRECISIONS, default="float32", help="what the network computes in")


def add_gossip(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gossip`."""
    add = parser.add_argument
    add("--learners", metavar="N", type=_count, default=8, help="learners")
    add("--parameters", metavar="P", type=_count, default=NATURE_PARAMETERS, help="per vector")
    text = "cpu, or a GPU that all learners share: cuda, cuda:1, ..."
    add("--device", metavar="DEVICE", default="cpu", help=text)


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add the options of `limit`."""
    add_measuring(parser)
    text = "what learns: cpu, or one GPU (cuda, which is cuda:0, or cuda:N)"
    parser.add_argument("--device", metavar="NAME", type=_device, default="cpu", help=text)


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gpu`."""
    add = parser.add_argument
    text = "run only these, in their own order (none means all)"
    add("--steps", metavar="NAME,NAME,...", default="", help=text)
    text = "most time for all steps; those that no longer fit are left out"
    add("--limit-s", metavar="S", type=_duration, default=540.0, help=text)
    add("--json", metavar="FILE", type=Path, help="append one JSON row per step")
    text = "rates of 8 learners and of bf16 as well, which takes more than nine minutes"
    add("--full", action="store_true", help=text)
    add("--game", metavar="NAME", default="Breakout", help="Atari game")
    add("--network", choices=NETWORKS, default="nature", help="network that is trained")
    add("--learners", metavar="N,N,...", type=_counts, default=(1, 2, 4), help="of the rates")
    text = "environments of all learners together, for the rates"
    add("--total-envs", metavar="N,N,...", type=_counts, default=(64, 256), help=text)
    add("--seconds", metavar="S", type=_duration, default=6.0, help="measured per rate")
    add("--warm-up", metavar="S", type=_duration, default=2.0, help="left out before that")


def add_peers(parser: argparse.ArgumentParser) -> None:
    """Add the options of `peers`."""
    add_measuring(parser, num_envs=None)
    usual = " and ".join(f"{number} for {name}" for name, number in peers.NUM_ENVS.items())
    text = (
        f"a2c, or ppo with the settings of --preset ppo-atari for everyone; --num-envs is {usual} "
        "unless given"
    )
    parser.add_argument("--algorithm", choices=tuple(peers.PEERS), default=peers.A2C, help=text)
    named = [name for name, peer in peers.PEERS[peers.PPO].items() if peer.named_only]
    text = (
        f"compare with {' or '.join(peers.PEERS[peers.PPO])} (may be repeated); none means all but "
        f"{' and '.join(named)}, which is for ppo, and cannot be installed on every machine"
    )
    parser.add_argument("--peer", metavar="NAME", action="append", default=[], help=text)


def add_learning(parser: argparse.ArgumentParser) -> None:
    """Add the options of `learning`."""
    add = parser.add_argument
    slow = [task.name for task in TASKS.values() if task.slow]
    text = f"train {' or '.join(TASKS)} (may be repeated; none means all but {' and '.join(slow)})"
    add("--task", metavar="NAME", action="append", default=[], help=text)
    add("--seeds", metavar="N,N,...", type=_counts, default=(1,), help="seeds of each task")
    text = "what learns: cpu, or one GPU (cuda, which is cuda:0, or cuda:N)"
    add("--device", metavar="NAME", type=_device, default="cpu", help=text)
    text = "most time for one training (none means the task's own, half an hour for most)"
    add("--limit-s", metavar="S", type=_duration, help=text)
    add("--json", metavar="FILE", type=Path, help="append one JSON row per training")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _device(text: str) -> str:
    name = "cuda:0" if text == "cuda" else text
    if name == "cpu" or re.fullmatch("cuda:(0|[1-9][0-9]{0,3})", name):
        return name
    raise argparse.ArgumentTypeError(f"{text!r}: expected cpu, cuda or cuda:N")


def _duration(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(float(text)) and float(text) > 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, more than 0")
