"""One run on several nodes, all of them on this machine, as one program that the bench measures.

    python -m galamp.tools.bench.nodes N run flags ... --seed S --run-dir DIR
        galamp run flags ... --nodes N --node-rank 0 --join ADDRESS --run-dir DIR
        galamp run flags ... --nodes N --node-rank 1 --join ADDRESS --run-dir DIR-node-1
        ...

Runs in the bench, and below it as this program. The rows of node 0 hold the agent steps of all. A
`--stop-score` among the flags is of the episodes of all nodes, which no node knows: this program
ends the run.
Each node has its part of the cores. So beside as many learners in one run, which is one node and
divides the cores among its learners likewise, it shows what the bridges between nodes cost.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from galamp.core.errors import EXIT_OK, EXIT_SIGTERM
from galamp.core.machine.machine import Cpu, inspect_cpus
from galamp.supervision.placement import physical_cores
from galamp.tools.bench.pooled_episodes import has_reached
from galamp.tools.bench.runs import System, Workload, galamp_system

LOOPBACK = "127.0.0.1"
POLL_S, LOOK_EVERY_S = 0.1, 10.0
"""Pauses between two looks at the nodes, and at their scores."""
BY_REQUEST = (EXIT_SIGTERM, -signal.SIGTERM)
"""Exit codes of a node that was asked to end; the second one if it had hardly begun."""
END_DEADLINE_S = 50.0
"""Most time that the nodes may take to save their work once they are asked to end; then they are
killed. It is within the time that the bench waits for a program."""


def nodes_system(workload: Workload, nodes: int, more: Sequence[str]) -> System:
    """Return the run of all the workload's learners on so many nodes, with flags of their own.

    Args:
        workload: as of one run: its learners are divided among the nodes.
        nodes: at least 2; divides the learners.
        more: flags of `galamp run` for each node.
    """
    per_node = workload.learners // nodes
    assert per_node * nodes == workload.learners
    run = galamp_system(replace(workload, learners=per_node), more=("--device", "cpu", *more))
    python, _, _, *flags = run.command
    name = f"{nodes} nodes x {per_node}"
    return System(name, (python, "-m", "galamp.tools.bench.nodes", str(nodes), *flags))


def commands(nodes: int, flags: Sequence[str], run_dir: str, address: str) -> list[list[str]]:
    """Return the command of each node; node 0 has the run folder, others have one beside it."""
    found = []
    for node in range(nodes):
        place = ("--nodes", str(nodes), "--node-rank", str(node), "--join", address)
        where = ("--run-dir", str(folder_of(Path(run_dir), node)))
        found.append([sys.executable, "-m", "galamp", *flags, *place, *where])
    return found


def folder_of(run_dir: Path, node: int) -> Path:
    """Return the run folder of a node, where `run_dir` is that of node 0."""
    return run_dir.with_name(f"{run_dir.name}-node-{node}") if node else run_dir


def free_address() -> str:
    """Return an address of this machine at which nothing listens just now."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return f"tcp/{LOOPBACK}:{one.getsockname()[1]}"


def parts(cpus: Sequence[Cpu], nodes: int) -> list[tuple[int, ...]]:
    """Return the processors of each node: whole physical cores, or hardware threads.

    Where there are fewer of both than nodes, all have all of them.
    """
    cores = physical_cores(cpus)
    if len(cores) < nodes:
        cores = [(cpu,) for core in cores for cpu in core]
    edges = [len(cores) * node // nodes for node in range(nodes + 1)]
    shares = [cores[low:high] for low, high in itertools.pairwise(edges)]
    return [
        tuple(cpu.number for core in share for cpu in core)
        for share in (shares if all(shares) else [cores] * nodes)
    ]


def main() -> int:
    """Run all nodes until one ends, the score is reached or SIGTERM comes, then end all.

    Returns the exit code.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("nodes", type=int)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--stop-score", type=float)
    args, flags = parser.parse_known_args()
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    folders = [folder_of(Path(args.run_dir), node) for node in range(args.nodes)]
    running = _started(commands(args.nodes, flags, args.run_dir, free_address()))
    look_s, reached = time.monotonic(), False
    while not (asked or reached) and all(process.poll() is None for process in running):
        time.sleep(POLL_S)
        if args.stop_score is not None and time.monotonic() >= look_s:
            reached = has_reached(folders, args.stop_score)
            look_s = time.monotonic() + LOOK_EVERY_S
    by_itself = reached or any(process.returncode is not None for process in running)
    for process in running:
        process.terminate()
    until_s = time.monotonic() + END_DEADLINE_S
    codes = [_ended(process, until_s) for process in running]
    failed = [code for code in codes if code not in (EXIT_OK, *BY_REQUEST)]
    return failed[0] if failed else EXIT_OK if by_itself else EXIT_SIGTERM


def _started(words: Sequence[Sequence[str]]) -> list[subprocess.Popen[bytes]]:
    """Start the nodes, each on its part of this process's processors."""
    mine = os.sched_getaffinity(0)
    running = []
    try:
        for command, cores in zip(
            words, parts(inspect_cpus(sorted(mine)), len(words)), strict=True
        ):
            os.sched_setaffinity(0, cores)
            running.append(subprocess.Popen(command))
    finally:
        os.sched_setaffinity(0, mine)
    return running


def _ended(process: subprocess.Popen[bytes], until_s: float) -> int:
    """Return the exit code of a node that was asked to end; killed if it does not in time."""
    try:
        return process.wait(max(0.0, until_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
