"""Settings of a run on several machines: a section of the config."""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.settings import option

MAX_NODES = 64


@dataclass(frozen=True)
class ClusterConfig:
    """Which nodes a run has, and which of them this is; see `core.nodes`."""

    nodes: int = option(
        1,
        "machines of the run, on each of which this command is given, with the same settings; "
        "their learners gossip as one",
        low=1,
        high=MAX_NODES,
    )
    node_rank: int | None = option(
        None,
        "number of this machine, from 0 (default: as SLURM, torchrun or Kubernetes say)",
        low=0,
        high=MAX_NODES - 1,
    )
    join: str = option(
        "",
        "address of machine 0, such as tls/machine-0:7447; with more than two machines one address "
        "of each, in order, with commas between them, the last of which may be left out (default: "
        "none)",
    )
    listen: str = option(
        "",
        "address at which this machine listens, where the others reach it at another one, as in a "
        "container or behind a forwarded port: tls/0.0.0.0:7447 (default: its own of --join)",
    )
    transport: str = option(
        "zenoh",
        "library that carries vectors between machines: zenoh, or torch's gloo where nothing else "
        "may be installed, which knows neither keys nor encryption",
        names=("zenoh", "gloo"),
    )
    wire: str = option(
        "float32",
        "numbers as they go between machines: float32, or bf16, which is half the bytes; what it "
        "rounds off is added to the next vector",
        names=("float32", "bf16"),
    )
    keys: str = option(
        "",
        "folder with the keys of this machine, as galamp keys makes them, for addresses tls/... "
        "(default: none)",
    )
    insecure_network: bool = option(
        False, "gossip over a network in plain text: who is in it can read and alter the run"
    )
