"""Nodes of a run on several machines: which of them this is, and how the others are reached.

    ClusterConfig, environment variables --place_of--> Place --> the bridge's port
    Ranks: number of a learner among all <--> its number on this node

Every node has the same number of learners, its lanes. Learner `lane` of node m is number
m lanes + lane among all: so they are numbered on the wire and in the gossip graph. On a node they
are numbered from its own first one on: its own are 0, 1, ..., as in a run on one machine, those of
the other nodes follow. Pure. Runs in the supervisor before any process starts.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from galamp.core.cluster_config import ClusterConfig
from galamp.core.errors import UserError
from galamp.core.settings import shown

if TYPE_CHECKING:
    from galamp.core.node_keys import NodeKeys

MAX_LANES, MAX_LEARNERS = 64, 1024
"""Most learners of one of several nodes, and of all of them."""
_ADDRESS = re.compile(
    r"(?P<kind>tcp|tls)/(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(?P<port>\d{1,5})"
)
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")

RANK_VARIABLES = ("SLURM_NODEID", "GROUP_RANK", "JOB_COMPLETION_INDEX")
"""Of SLURM, torchrun, and Kubernetes' indexed jobs: the number of this node."""
NODES_VARIABLES = ("SLURM_NNODES", "GROUP_WORLD_SIZE")
"""Of SLURM and torchrun: how many nodes their launch has."""
_ORDINAL = re.compile(r".*-(\d{1,4})")
KUBERNETES = "KUBERNETES_SERVICE_HOST"
"""Variable that every container in Kubernetes has."""


class Place(NamedTuple):
    """Place of this node among those of the run; addresses to listen at, and to connect to.

    `keys` are those of the node where it is to prove who it is, and is encrypted.
    """

    node: int
    nodes: int
    listen: tuple[str, ...]
    connect: tuple[str, ...]
    keys: NodeKeys | None = None

    @property
    def plain(self) -> tuple[str, ...]:
        """Addresses at which others could read and alter what goes over the wire."""
        every = () if self.keys is not None else (*self.listen, *self.connect)
        return tuple(address for address in every if not is_loopback(address))


class Ranks(NamedTuple):
    """Numbering of the learners of `nodes` nodes with `lanes` learners each, as `node` sees it."""

    node: int
    nodes: int
    lanes: int

    @property
    def all(self) -> int:
        """Number of learners of all nodes."""
        return self.nodes * self.lanes

    @property
    def remote(self) -> range:
        """The other nodes' learners, as this node numbers them."""
        return range(self.lanes, self.all)

    def among_all(self, rank: int) -> int:
        """Return the number among all of what is learner `rank` here."""
        return (rank + self.node * self.lanes) % self.all

    def here(self, number: int) -> int:
        """Return what learner `number` of all is called here."""
        return (number - self.node * self.lanes) % self.all

    def node_of(self, rank: int) -> int:
        """Return the node of what is learner `rank` here."""
        return self.among_all(rank) // self.lanes

    def learners_of(self, node: int) -> range:
        """Return a node's learners, as they are numbered here."""
        first = self.here(node * self.lanes)
        return range(first, first + self.lanes)


def place_of(config: ClusterConfig, environ: Mapping[str, str]) -> Place | None:
    """Return the place of this node; None for a run on one machine.

    Raises:
        UserError: it cannot be told, or an address is wrong or not safe.
    """
    if config.nodes == 1:
        _refuse_alone(config)
        return None
    _check_launched(config.nodes, environ)
    node = _rank(environ) if config.node_rank is None else config.node_rank
    if node is None:
        raise UserError(
            f"--nodes {config.nodes}: which of them is this? Give --node-rank, from 0 to "
            f"{config.nodes - 1}, or start it by SLURM, torchrun or as a Kubernetes indexed job"
        )
    if node >= config.nodes:
        raise UserError(f"--node-rank {node}: --nodes {config.nodes} are 0 to {config.nodes - 1}")
    if config.transport == "gloo":
        _check_gloo(config)
    addresses = _addresses(config)
    listen = _listened(config, addresses[node : node + 1])
    keys = None
    if config.keys:
        from galamp.core.node_keys import keys_in

        keys = keys_in(Path(config.keys), node)
    return Place(node, config.nodes, listen, addresses[:node], keys)


def _refuse_alone(config: ClusterConfig) -> None:
    """Refuse settings that have no meaning on one machine."""
    if replace(config, node_rank=config.node_rank or None) != ClusterConfig():
        raise UserError(
            "--join, --node-rank, --listen, --transport, --wire, --keys and --insecure-network: "
            "are for several machines; give --nodes"
        )


def _check_gloo(config: ClusterConfig) -> None:
    """Refuse what gloo cannot do: encrypt, and be reached at one address only.

    Raises:
        UserError: it is asked for.
    """
    if config.keys or "tls/" in config.join:
        raise UserError(
            "--transport gloo: cannot encrypt, nor prove who a machine is: leave --keys out and "
            "give tcp/ addresses, in a network that only the run's machines are in; or use zenoh"
        )
    if config.listen:
        raise UserError(
            "--transport gloo: opens more ports than that of --join, which are reached at the same "
            "host; leave --listen out, or use zenoh"
        )


def _rank(environ: Mapping[str, str]) -> int | None:
    for name in RANK_VARIABLES:
        if (number := _whole(environ.get(name))) is not None:
            return number
    if KUBERNETES in environ:  # the ordinal of a StatefulSet is the end of its pods' names
        found = _ORDINAL.fullmatch(environ.get("HOSTNAME") or socket.gethostname())
        return None if found is None else int(found[1])
    return None


def _check_launched(nodes: int, environ: Mapping[str, str]) -> None:
    """Check that a launcher's number of nodes is that of the run.

    Raises:
        UserError: it is another.
    """
    for name in NODES_VARIABLES:
        launched = _whole(environ.get(name))
        if launched is not None and launched > 1 and launched != nodes:
            raise UserError(f"--nodes {nodes}: {name} is {launched}; give the same")


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,4}", text) else None


def _addresses(config: ClusterConfig) -> tuple[str, ...]:
    """Return the nodes' addresses, in order of node.

    Raises:
        UserError: there are too few or too many, or one is wrong or not safe.
    """
    addresses = tuple(filter(None, (each.strip() for each in config.join.split(","))))
    least = config.nodes - 1
    if not least <= len(addresses) <= config.nodes:
        wanted = "that of machine 0" if least == 1 else f"those of machines 0 to {least - 1}"
        raise UserError(
            f"--join: {len(addresses)} addresses, --nodes {config.nodes} connect to {wanted}: give "
            "them in order, with commas between them, such as tls/machine-0:7447"
        )
    for address in addresses:
        _check_address("--join", address, config)
    return addresses


def _listened(config: ClusterConfig, own: tuple[str, ...]) -> tuple[str, ...]:
    """Return where a node listens whose `own` address among all is this one; it may have none.

    Raises:
        UserError: the address is wrong or not safe, or nobody connects to it.
    """
    if not config.listen:
        return own
    if not own:
        raise UserError(
            f"--listen {shown(config.listen)}: nobody connects to this machine, for its address is "
            "not in --join; leave it out"
        )
    _check_address("--listen", config.listen, config)
    return (config.listen,)


def _check_address(flag: str, address: str, config: ClusterConfig) -> None:
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise UserError(
            f"{flag} {shown(address)}: expected tls/HOST:PORT, such as tls/machine-0:7447, or "
            "tcp/127.0.0.1:7447 within a machine"
        )
    secret = found["kind"] == "tls"
    if secret != bool(config.keys):
        raise UserError(
            f"{flag} {shown(address)}: tls/ needs --keys, and --keys needs tls/: make keys with "
            "galamp keys"
        )
    if not secret and not is_loopback(address) and not config.insecure_network:
        safe = "use zenoh with " if config.transport == "gloo" else "use "
        raise UserError(
            f"{flag} {shown(address)}: everyone in that network could read and alter the run; "
            f"{safe}tls/ and --keys (galamp help cluster), or --insecure-network to take it "
            "nevertheless"
        )


def is_loopback(address: str) -> bool:
    """Return whether an address is one of this machine itself."""
    found = _ADDRESS.fullmatch(address)
    return found is not None and _LOOPBACK.fullmatch(found["host"]) is not None
