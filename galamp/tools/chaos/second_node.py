"""The second machine of `galamp chaos --cut`: a run on this one, behind a relay.

    RunConfig --on_two_nodes--> config of this node;  galamp run of the other --> Program
    this node listens <-- Relay <-- the other connects

Nobody needs a right for it: both are on this machine, which they halve. Runs in the command's
process; the other run ends with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from galamp.core.cluster_config import ClusterConfig
from galamp.core.config import RunConfig, value_in
from galamp.core.disk import in_home
from galamp.core.errors import RunFailed, UserError
from galamp.core.json_values import DecodeError, json_object
from galamp.core.settings import settings
from galamp.supervision.cluster import check_cluster
from galamp.tools.bench.processes import Program, titled
from galamp.tools.chaos.calibration import busy_factor
from galamp.tools.chaos.link import Link
from galamp.tools.chaos.relay import HOST
from galamp.tools.sweep.planned import PlannedRun, flags
from galamp.workers.child import BRIDGE

ENDLESS_STEPS = 10**12
ALWAYS = {
    ("algorithm", "algorithm"),
    ("cluster", "wire"),
    ("environment", "env_id"),
    ("report", "checkpoint_every_s"),
}
LEFT_OUT = ("report", "stop", "cluster")
"""Sections that are the first node's own affair, but for what is `ALWAYS` given."""
STOP_TIMEOUT_S = 60.0


class SecondNode:
    """The other run, and the link to it.

    Attributes:
        config: of the first node, which this process is to run.
        link: between both.
        folder: of the other run.
        busy: what bounds in seconds are multiplied by, see `calibration`.
    """

    def __init__(
        self,
        config: RunConfig,
        link: Link,
        folder: Path,
        start: Callable[[bool], Program],
        busy: float = 1.0,
    ) -> None:
        """Start it by `start`, which is told whether to resume its run, in `folder`."""
        self.config, self.link, self.folder, self._start = config, link, folder, start
        self.busy = busy
        self._program = start(False).__enter__()
        self.away = False
        """Whether it was killed, and not started again yet."""

    @property
    def saved(self) -> bool:
        """Whether it has a checkpoint, from which it can go on."""
        return any(self.folder.glob("checkpoints/ckpt-*"))

    def kill(self) -> None:
        """Kill all of its processes, as a machine that loses its power."""
        self.away = True
        self._program.kill()

    def start_again(self) -> None:
        """Start it again in its folder."""
        self._program = self._start(True).__enter__()
        self.away = False

    def close(self) -> None:
        """Leave no process of it behind."""
        self._program.__exit__()

    @property
    def stopped(self) -> str:
        """Why it, or the link, does not run any more, in a line; empty while both run.

        Nor is anything wrong while it is away.
        """
        if not self.away and self._program.exit_code is not None:
            return f"it ended with code {self._program.exit_code}: {self._program.complaint()}"
        return "" if self.link.running else "the relay between both has ended"

    @property
    def supervisor(self) -> int | None:
        """Process id of its supervisor; None while it is away."""
        return None if self.away else self._program.session

    @property
    def bridge(self) -> int | None:
        """Process id of its bridge; None while there is none."""
        return next(iter(titled(self._program.session, f"galamp: {BRIDGE}")), None)

    def end(self) -> dict[str, Any]:
        """Have it save and end; returns its summary.

        Raises:
            RunFailed: it does not end, or ends otherwise.
        """
        self._program.stop(STOP_TIMEOUT_S)
        for line in reversed(self._program.lines()):
            if line.startswith("{"):
                with contextlib.suppress(DecodeError):
                    return json_object(line)
        raise RunFailed(f"it has left no summary: {self._program.last_line()}")


def check_alone(config: RunConfig, resumed: bool) -> None:
    """Refuse what does not go together with a second node.

    Raises:
        UserError: it does not, or two nodes cannot run with these settings.
    """
    if config.cluster.transport != ClusterConfig().transport:
        raise UserError(
            f"--cut: a link of {config.cluster.transport} cannot be led through a relay, which is "
            "to disturb it: leave --transport out"
        )
    if config.cluster != ClusterConfig(wire=config.cluster.wire):
        raise UserError(
            "--cut: starts both machines of the run itself, on this one; leave --nodes, --join and "
            "what belongs to them out, but for --wire"
        )
    if resumed:
        raise UserError("--cut: starts a new run on two machines; leave --resume out")
    other = other_folder(config)
    if os.path.lexists(other):
        raise UserError(f"--cut: the second machine's folder is {other}, which exists: remove it")


def other_folder(config: RunConfig) -> Path:
    """Return the folder of the second node's run: the first one's, and which node it is."""
    run_dir = config.report.run_dir.rstrip("/")
    return in_home(f"{run_dir or f'runs/chaos-{datetime.now():%Y%m%d-%H%M%S}'}-node1")


@contextlib.contextmanager
def second_node(config: RunConfig) -> Iterator[SecondNode]:
    """Start it, and the relay; both have ended at the end of the block.

    Raises:
        UserError: two nodes cannot run with these settings.
        RunFailed: the relay does not start.
    """
    port = _free_port()
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(contextlib.closing(Link(port)))
        both = replace(config.cluster, nodes=2, join=f"tcp/{HOST}:{link.port}")
        own = replace(both, node_rank=0, listen=f"tcp/{HOST}:{port}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first, second = halves()
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, first)
        busy = busy_factor()
        other, where = replace(config, cluster=replace(both, node_rank=1)), other_folder(config)

        def start(resumes: bool) -> Program:
            words = command(other, where, resume=resumes)
            return Program(words, Path.cwd(), folder / "log", cores=second)

        node = SecondNode(replace(config, cluster=own), link, where, start, busy)
        yield stack.enter_context(contextlib.closing(node))


def check_two(config: RunConfig) -> None:
    """Check that two nodes can run with these settings, before any process starts.

    Raises:
        UserError: they cannot.
    """
    from galamp.core.nodes import place_of

    cluster = replace(config.cluster, nodes=2, node_rank=0, join=f"tcp/{HOST}:1")
    place = place_of(cluster, os.environ)
    assert place is not None
    check_cluster(replace(config, cluster=cluster), place, max(1, config.resources.learners))


def halves() -> tuple[set[int], set[int]]:
    """Return equal halves of the processors that this process may use; or all twice."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return (set(cores[:half]), set(cores[half : 2 * half])) if half else (set(cores), set(cores))


def command(config: RunConfig, folder: Path, *, resume: bool) -> list[str]:
    """Return the command line of the second node: all settings that are no defaults, as flags.

    One that is resumed has them from its folder, but for code of the user's.
    """
    usual = {(s.section, s.name): s.default for s in settings(config)}
    config = replace(config, total_steps=ENDLESS_STEPS)
    values = {
        key: value_in(config, setting)
        for setting in settings(config)
        if (key := (setting.section, setting.name)) in ALWAYS
        or (
            setting.option.stored
            and setting.section not in LEFT_OUT
            and value_in(config, setting) != usual[key]
        )
    }
    cluster = config.cluster
    place = [f"--nodes={cluster.nodes}", f"--node-rank={cluster.node_rank}"]
    run = PlannedRun("", "", config.environment.env_id, config.seed, values, config)
    words = [sys.executable, "-m", "galamp", "run", "--quiet", "--json", "--on-hangup=stop"]
    if resume:
        return [*words, f"--resume={folder}", *flags(run, code_only=True)]
    return [*words, f"--run-dir={folder}", *place, f"--join={cluster.join}", *flags(run)]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port
