"""What each command of bin/bench does: options to systems, measurements to a table.

Runs in the bench; `cli` has the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch

from galamp.core.errors import GalampError, RunFailed, UserError
from galamp.core.machine.torch_device import usable_device
from galamp.environments.names import ATARI, canonical_env_id, rom_name
from galamp.supervision.devices import CPU
from galamp.telemetry.display.console import table_console
from galamp.tools.bench import dashboard, learning, peers, tables
from galamp.tools.bench.exchanges import costs, costs_table
from galamp.tools.bench.forwards import forwards_table, measure
from galamp.tools.bench.gpu import command as gpu
from galamp.tools.bench.limit import Limit, parts_table
from galamp.tools.bench.neighbour import Neighbour, beside, merged, neighbours_table
from galamp.tools.bench.nodes import nodes_system
from galamp.tools.bench.nvml import Gauge
from galamp.tools.bench.runs import (
    GALAMP,
    Measurable,
    Measurement,
    Workload,
    alternation,
    galamp_system,
)
from galamp.tools.bench.starts import first_step_s, starts_table


def say(text: str) -> None:
    """Write progress to standard error."""
    sys.stderr.write(text)
    sys.stderr.flush()


def run_command(args: argparse.Namespace) -> None:
    """`bin/bench run`."""
    workload = workload_from(args, args.learners, args.num_envs)
    with rows_file(args.json) as rows:
        compare([galamp_system(workload)], described(workload), args, rows)


def limit_command(args: argparse.Namespace) -> None:
    """`bin/bench limit`."""
    workload = workload_from(args, args.learners, args.num_envs)
    galamp, what, device = galamp_system(workload), described(workload), args.device
    if device != CPU:
        gauge = Gauge(uuid_of(device))
        galamp = galamp_system(workload, more=("--device", device))
        galamp, what = replace(galamp, gauge=gauge), f"{what}, on {device} {gauge.names}"
    limit = Limit(workload, device=device)
    with rows_file(args.json) as rows:
        compare([galamp, limit], what, args, rows)
    table_console(sys.stdout).print(parts_table(limit.rounds))


def uuid_of(device: str) -> tuple[str, ...]:
    """Return the UUID of a GPU, such as `cuda:0`, as a tuple; empty where it has none.

    Raises:
        UserError: torch does not see it.
        RunFailed: torch cannot use it.
    """
    machine = gpu.machine_here()
    if device in machine.unusable:
        raise RunFailed(f"{device} cannot be used: {machine.unusable[device]}")
    found = {each.device: each.uuid for each in machine.gpus}
    if device not in found:
        raise UserError(
            f"--device {device}: torch sees {len(found)} GPUs here that can be used; use "
            f"{' or '.join(found)}"
        )
    return (found[device],)


def scale_command(args: argparse.Namespace) -> None:
    """`bin/bench scale`."""
    shapes = [(n, b) for n in args.learners for b in args.num_envs]
    systems = [galamp_system(workload_from(args, n, b), f"{_learners(n)} x {b}") for n, b in shapes]
    what = f"{args.game}, network {args.network}, learners x environments of each"
    with rows_file(args.json) as rows:
        compare(systems, what, args, rows, subject=systems[0].name)


def pipeline_command(args: argparse.Namespace) -> None:
    """`bin/bench pipeline`."""
    args.algorithm = "vtrace"
    workload, device = workload_from(args, args.learners, args.num_envs), ("--device", args.device)
    overlapping = galamp_system(workload, "with --pipeline", more=(*device, "--pipeline"))
    systems = [overlapping, galamp_system(workload, "without", more=device)]
    with rows_file(args.json) as rows:
        compare(systems, described(workload), args, rows, subject=overlapping.name)


def nodes_command(args: argparse.Namespace) -> None:
    """`bin/bench nodes`."""
    if args.nodes < 2 or args.learners % args.nodes:
        raise UserError(
            f"--nodes {args.nodes} --learners {args.learners}: expected 2 nodes or more, each with "
            f"as many learners: a multiple of {max(args.nodes, 2)}"
        )
    workload = workload_from(args, args.learners, args.num_envs)
    flags = ("--topology", "hierarchical", "--transport", args.transport, "--wire", args.wire)
    several = nodes_system(workload, args.nodes, flags)
    with rows_file(args.json) as rows:
        systems = [several, galamp_system(workload, f"1 node x {args.learners}")]
        compare(systems, described(workload), args, rows, subject=several.name)


def _learners(count: int) -> str:
    return "1 learner" if count == 1 else f"{count} learners"


def gpu_command(args: argparse.Namespace) -> int:
    """`bin/bench gpu`."""
    workload = workload_from(args, 1, 1)
    return gpu.run(args, workload, rows_file(args.json))


def start_command(args: argparse.Namespace) -> None:
    """`bin/bench start`."""
    origin = tables.Origin.here(shlex.join(["bin/bench", *args.words]))
    found: dict[int, list[float]] = {learners: [] for learners in args.learners}
    for number in range(1, args.repeats + 1):
        for learners in args.learners:
            passed_s = first_step_s(workload_from(args, learners, args.num_envs))
            found[learners].append(passed_s)
            say(f"galamp: bench: start {number} of {args.repeats}: {_learners(learners)}: ")
            say(f"first step after {passed_s:.2f} s\n")
    what = f"{args.game}, network {args.network}, {args.num_envs} environments each"
    table = starts_table([(_learners(n), seconds) for n, seconds in found.items()])
    tables.show_table(table, what, origin.lines, sys.stdout)


def dashboard_command(args: argparse.Namespace) -> None:
    """`bin/bench dashboard`."""
    if args.pairs < dashboard.FEWEST_PAIRS:
        raise UserError(
            f"--pairs {args.pairs}: expected {dashboard.FEWEST_PAIRS} or more: the spread of fewer "
            "pairs tells nothing"
        )
    origin = tables.Origin.here(shlex.join(["bin/bench", *args.words]))
    workload = workload_from(args, args.learners, args.num_envs)
    say(f"galamp: bench: dashboard: {args.pairs} pairs of turns ...\n")
    found = dashboard.measure(workload, args.pairs)
    lines = [*dashboard.remarks(found), *origin.lines]
    what = f"the dashboard of {described(workload)}"
    tables.show_table(dashboard.dashboard_table(found), what, lines, sys.stdout)


def neighbour_command(args: argparse.Namespace) -> None:
    """`bin/bench neighbour`."""
    origin = tables.Origin.here(shlex.join(["bin/bench", *args.words]))
    workload = workload_from(args, args.learners, args.num_envs)
    others: dict[str, tuple[str, ...] | None] = {"nothing": None, "a run": ()}
    for words in ("--nice 0", "--no-pin"):
        others[f"a run with {words}"] = tuple(words.split())
    found: dict[str, list[Neighbour]] = {name: [] for name in others}
    for number in range(1, args.repeats + 1):
        for name, flags in others.items():
            say(f"galamp: bench: round {number} of {args.repeats}: beside {name}\n")
            runs = None if flags is None else workload
            found[name].append(beside(runs, flags or (), args.seconds))
    table = neighbours_table([(name, merged(rounds)) for name, rounds in found.items()])
    what = f"a small program beside {described(workload)}"
    tables.show_table(table, what, origin.lines, sys.stdout)


def forward_command(args: argparse.Namespace) -> None:
    """`bin/bench forward`."""
    origin = tables.Origin.here(shlex.join(["bin/bench", *args.words]))
    workload = workload_from(args, 1, args.num_envs)
    found = measure(workload.env_id, workload.num_envs, workload.network, workload.precision)
    what = (
        f"{workload.env_id}, network {workload.network}, {workload.precision}, "
        f"{workload.num_envs} environments, one core; ms per agent step"
    )
    tables.show_table(forwards_table(found), what, origin.lines, sys.stdout)


def gossip_command(args: argparse.Namespace) -> None:
    """`bin/bench gossip`."""
    torch.set_num_threads(1)
    device = usable_device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # memory is page-locked for the present one
    origin = tables.Origin.here(shlex.join(["bin/bench", *args.words]))
    where = "one core" if device.type == "cpu" else torch.cuda.get_device_name(device)
    what = f"{args.learners} learners, {args.parameters:,} numbers per vector, {where}"
    table = costs_table(list(costs(args.learners, args.parameters, device)))
    tables.show_table(table, what, origin.lines, sys.stdout)


def peers_command(args: argparse.Namespace) -> None:
    """`bin/bench peers`."""
    num_envs = args.num_envs or peers.NUM_ENVS[args.algorithm]
    workload = workload_from(args, args.learners, num_envs)
    others = peers.chosen(args.peer, workload)
    with rows_file(args.json) as rows:
        systems: list[Measurable] = [galamp_system(workload)]
        for peer in others:
            systems.append(peers.peer_system(peer, workload, peers.prepare(peer, say)))
        compare(systems, described(workload), args, rows)


def learning_command(args: argparse.Namespace) -> int:
    """`bin/bench learning`."""
    origin = tables.Origin.here(shlex.join(["bin/bench", *args.words]))
    with rows_file(args.json) as rows:
        return learning.run(args, origin, rows, say)


def workload_from(args: argparse.Namespace, learners: int, num_envs: int) -> Workload:
    """Return the workload of the options.

    Raises:
        UserError: no such Atari game.
    """
    try:
        env_id = canonical_env_id(args.game)
    except UserError as error:
        raise UserError(f"--game: {error}") from None
    if not env_id.startswith(ATARI):
        raise UserError(f"--game {args.game}: expected an Atari game, such as Breakout")
    precision = getattr(args, "precision", "float32")
    algorithm = getattr(args, "algorithm", peers.A2C)
    shape = (learners, num_envs, args.network, precision, algorithm)
    return Workload(env_id, rom_name(env_id), *shape)


def described(workload: Workload) -> str:
    """Return the workload as text."""
    return (
        f"{workload.env_id}, {workload.algorithm}, network {workload.network}, "
        f"{workload.precision}, {workload.total_envs} environments in all "
        f"(galamp: {workload.learners} learners with {workload.num_envs} each)"
    )


def compare(
    systems: Sequence[Measurable],
    what: str,
    args: argparse.Namespace,
    rows: TextIO | None,
    subject: str = GALAMP,
) -> None:
    """Measure the systems in turns, store every measurement, and show the table."""
    what = f"{what}, {args.repeats} x {args.seconds:g} s"
    origin = tables.Origin.here(shlex.join(["bin/bench", *args.words]))
    done: list[Measurement] = []
    for number, system in alternation(systems, args.repeats):
        say(f"galamp: bench: round {number} of {args.repeats}: {system.name} ...")
        try:
            one = system.measure(number, seconds=args.seconds, warm_up_s=args.warm_up)
        except GalampError:
            say("\n")
            raise
        say(f" {one.agent_steps_per_s:,.0f} agent steps/s\n")
        done.append(one)
        if rows is not None:
            rows.write(json.dumps(tables.json_row(one, origin, what)) + "\n")
            rows.flush()
    tables.show(done, subject, what, origin, sys.stdout)


@contextlib.contextmanager
def rows_file(path: Path | None) -> Iterator[TextIO | None]:
    """Open the file that measurements are appended to; yields None without one.

    Raises:
        UserError: it cannot be written.
    """
    if path is None:
        yield None
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written ({error.strerror})") from None
    with file:
        yield file
