"""One training from settings to summary: look at environment and machine, plan, run, conclude.

    RunConfig --> probe, plan --> RunFolder, Arena --> Supervisor.run --> summary.json

Runs in the parent. All that a user can have got wrong is found here, before any worker starts.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

import galamp
from galamp.arena import Arena, identity_of, sketch_model
from galamp.config import RunConfig, to_dict
from galamp.consensus import ConsensusMonitor, History
from galamp.display.dashboard import make_display
from galamp.environments import canonical_env_id, finish_probe, start_probe
from galamp.errors import UserError
from galamp.gossip.exchange import averages_gradients
from galamp.gossip.measuring import distances_between
from galamp.gossip.topologies import FILE, make_topology
from galamp.gossip.topologies.base import Topology
from galamp.plan import Plan, inspect_machine, make_plan
from galamp.recorder import Recorder
from galamp.saving import Saver, saved_state
from galamp.snapshot import Snapshot
from galamp.state import STATE_COUNTERS, State
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint
from galamp.storage.gossiplog import GOSSIP, GossipLog, Start
from galamp.storage.runfolder import CONFIG, GRAPH, RunFolder, read_json
from galamp.storage.runlogs import MetricsLog, curve
from galamp.supervisor import RunResult, Supervisor

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ALLOCATOR_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Above these sizes glibc asks the kernel for fresh pages; a learner's activations come back at
every update, and keeping their pages spares the kernel from handing them out anew."""


@dataclass(frozen=True)
class Outcome:
    """A training that has ended: how, and its summary as written to summary.json."""

    result: RunResult
    summary: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Former:
    """What an earlier start of the run left."""

    folder: Path
    checkpoint: Checkpoint
    skipped: tuple[str, ...]


def train(
    config: RunConfig, *, resume: Path | None = None, screen: TextIO | None = None
) -> Outcome:
    """Train as `config` says; with `resume`, go on with the run in that folder.

    Raises:
        UserError: something about the settings, the machine or the folder has to be changed first.
    """
    began_s, began = time.monotonic(), datetime.now()
    config = _with_canonical_environment(config)
    probe = start_probe(config.environment)
    try:
        machine = inspect_machine(config.resources.device)
        plan = make_plan(config, machine)
        graph = graph_file(plan, resume)
        topology = _topology(plan, graph)
    except BaseException:
        probe.kill()
        probe.communicate()
        raise
    environment = finish_probe(probe)
    sketch = sketch_model(plan, environment)
    identity = identity_of(plan, environment, sketch)
    former = load_former(resume, identity, len(plan.learners)) if resume is not None else None
    _prepare_children(plan)
    folder = _open_folder(plan, former, began)
    try:
        metrics = MetricsLog(
            folder.metrics, former.checkpoint.progress["agent_steps"] if former else 0, _complain
        )
        arena = Arena(plan, topology, environment, sketch, folder.logs, metrics.start)
        history = None
        if plan.config.gossip.certificate and arena.count > 1:
            log = GossipLog(folder.path / GOSSIP, _complain)
            lock_step = plan.config.gossip.lock_step
            history = History(arena.arrays, topology, log, _complain, lock_step=lock_step)
        recorder = Recorder(arena, folder, metrics, ConsensusMonitor(arena, history))
        saver = Saver(arena, identity, folder.checkpoints, recorder.tell)
        if former is not None:
            _take_over(former, arena, recorder, saver, folder)
        if history is not None:
            history.begin(_start(arena, former, metrics.start))
        if graph is not None:
            folder.keep_graph(graph)
        folder.write_config(_stored_config(plan, arena))
        _tell_choices(plan, recorder)
        gc.freeze()
        with make_display(plan.config.report.quiet, screen or sys.stderr) as display:
            result = Supervisor(arena, recorder, saver, display).run()
        summary = summarise(result, arena, recorder, metrics.start, time.monotonic() - began_s)
        folder.write_summary(summary)
        return Outcome(result, summary, folder.path)
    finally:
        folder.close()


def graph_file(plan: Plan, resume: Path | None) -> Path | None:
    """Return the file that holds the gossip graph, if one does.

    A run that is resumed with the graph that it had takes its own copy.
    """
    name = plan.config.gossip.topology
    if not name.startswith(FILE):
        return None
    if resume is not None and (resume / GRAPH).is_file():
        stored = read_json(resume / CONFIG).get("gossip")
        if isinstance(stored, dict) and stored.get("topology") == name:
            return resume / GRAPH
    return Path(name.removeprefix(FILE))


def _topology(plan: Plan, file: Path | None) -> Topology:
    config = plan.config
    name = config.gossip.topology if file is None else f"{FILE}{file}"
    return make_topology(name, len(plan.learners), config.gossip.gossip_weights, config.seed)


def _start(arena: Arena, former: Former | None, number: int) -> Start:
    """Return the first line of this start's gossip log: how far apart the learners begin."""
    distances = np.zeros((arena.count, arena.count))
    wall_s = 0.0
    if former is not None:
        layout = arena.sketch.layout
        states = [saved_state(learner, layout) for learner in former.checkpoint.learners]
        vectors = np.stack([state.tensors["parameters"] for state in states])
        distances, _ = distances_between(vectors)
        wall_s = float(former.checkpoint.progress["wall_s"])
    gossip = arena.plan.config.gossip
    rows = tuple(map(tuple, distances.tolist()))
    return Start(number, arena.count, gossip.topology, gossip.lock_step, wall_s, rows)


def load_former(folder: Path, identity: checkpoints.Identity, learners: int) -> Former:
    """Read what is needed to go on with the run in `folder`.

    Raises:
        UserError: there is no whole checkpoint, or it is of another game, network or size.
    """
    found = checkpoints.find(folder)
    checkpoint = checkpoints.load(found.path, expected=identity)
    saved = len(checkpoint.learners)
    if saved != learners:
        raise UserError(f"--learners {learners}: the run in {folder} has {saved}; resume with it")
    return Former(folder, checkpoint, found.skipped)


def _with_canonical_environment(config: RunConfig) -> RunConfig:
    env_id = canonical_env_id(config.environment.env_id)
    return replace(config, environment=replace(config.environment, env_id=env_id))


def _prepare_children(plan: Plan) -> None:
    """Set what children's libraries read when they load: left alone, each would take all cores."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(plan.config.resources.threads)
    for name in ALLOCATOR_VARIABLES:
        os.environ.setdefault(name, str(2**30))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(1)


def _open_folder(plan: Plan, former: Former | None, began: datetime) -> RunFolder:
    if former is not None:
        return RunFolder.open(former.folder)
    report, config = plan.config.report, plan.config
    name = report.name or f"{_label(config)}{len(plan.learners)}"
    return RunFolder.create(
        None, report.run_dir, config.environment.env_id, name, config.seed, began
    )


def _label(config: RunConfig) -> str:
    """Return how a run is called: by its method, or for GALA by its graph."""
    gossip = config.gossip
    if gossip.method != "gala":
        return gossip.method
    return Path(gossip.topology).stem if gossip.topology.startswith(FILE) else gossip.topology


def _take_over(
    former: Former, arena: Arena, recorder: Recorder, saver: Saver, folder: RunFolder
) -> None:
    """Lay the checkpoint's states where the learners look for them when they start."""
    states = [saved_state(learner, arena.sketch.layout) for learner in former.checkpoint.learners]
    gossip = arena.plan.config.gossip
    if gossip.lock_step:
        _align(states, identical=averages_gradients(gossip))
    for learner, state in zip(former.checkpoint.learners, states, strict=True):
        arena.states[learner.rank].save(state, save_id=0, incarnation=0)
        row = arena.board.learner(learner.rank)
        for name in STATE_COUNTERS:
            row[name] = state.counters[name]
    progress = former.checkpoint.progress
    recorder.go_on(progress, curve(folder.metrics))
    saver.go_on()
    recorder.tell(f"goes on from {progress['agent_steps']:,} agent steps")
    for skipped in former.skipped:
        recorder.tell(f"damaged checkpoint passed over: {skipped}")


def _align(states: list[State], *, identical: bool) -> None:
    """Put learners who will go in lock-step into the same turn, should they come from elsewhere.

    Raises:
        UserError: their parameters have to be identical, and are not.
    """
    for name in ("turns", "rounds"):
        most = max(state.counters[name] for state in states)
        for state in states:
            state.counters[name] = most
    first = states[0].tensors["parameters"]
    if identical and not all(np.array_equal(s.tensors["parameters"], first) for s in states):
        raise UserError(
            "--method data-parallel: the learners in the checkpoint differ, expected to be one; "
            "resume with the method that it was made with"
        )


def _tell_choices(plan: Plan, recorder: Recorder) -> None:
    config = plan.config
    recorder.tell(
        f"{len(plan.learners)} learners of {config.environment.num_envs} simulators on "
        f"{config.resources.device}, learning rate {config.algorithm.learning_rate:.3g}"
    )


def _stored_config(plan: Plan, arena: Arena) -> dict[str, Any]:
    """Return config.json: the settings with every choice made, and what they led to."""
    return to_dict(plan.config) | {
        "resolved": {
            "protocol": arena.environment.protocol,
            "network": arena.sketch.network,
            "parameters": arena.sketch.parameters,
            "learners": [
                {"rank": each.rank, "device": each.device, "cores": list(each.cores)}
                for each in plan.learners
            ],
            "versions": versions(),
        }
    }


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    packages = ("torch", "numpy", "gymnasium", "ale-py")
    return {
        "galamp": galamp.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def summarise(
    result: RunResult, arena: Arena, recorder: Recorder, start: int, wall_s: float
) -> dict[str, Any]:
    """Return the summary of a run: what `--json` prints and summary.json holds."""
    snapshot = recorder.snapshot()
    progress = recorder.progress()
    return {
        "status": result.status,
        "failure": str(result.failure) if result.failure else None,
        "run_dir": snapshot.run_dir,
        "env_id": snapshot.env_id,
        "protocol": snapshot.protocol,
        "agent_steps": snapshot.agent_steps,
        "emulator_frames": snapshot.agent_steps * snapshot.frames_per_step,
        "wall_s": round(progress["wall_s"], 3),
        "start": start,
        "start_wall_s": round(wall_s, 3),
        "agent_steps_per_s": round(recorder.overall_rate(), 1),
        "updates_per_learner": [learner.updates for learner in snapshot.learners],
        "mixes_per_learner": [row["mixes"] for row in arena.board.learners()],
        "most_staleness": max(row["most_staleness"] for row in arena.board.learners()),
        "gossip": gossip_summary(snapshot, arena),
        "time_shares": recorder.overall_shares(),
        "episodes": snapshot.episodes,
        "mean_return_100": snapshot.mean_return,
        "best_mean_return_100": snapshot.best_mean_return,
        "restarts": snapshot.restarts,
        "seed": arena.plan.config.seed,
        "command": shlex.join(sys.argv),
        "versions": versions(),
    }


def gossip_summary(snapshot: Snapshot, arena: Arena) -> dict[str, Any]:
    """Return how the learners worked together, and how far apart they were at the end."""
    gossip, seen = arena.plan.config.gossip, snapshot.consensus
    return {
        "method": gossip.method,
        "topology": gossip.topology,
        "lock_step": gossip.lock_step,
        "consensus_distance": seen.rms,
        "pairwise_distance": seen.pairwise,
        "certificate": seen.certificate,
        "certificate_ratio": seen.ratio,
        "radius": seen.radius,
        "gradient_correlation": seen.gradient_correlation,
    }


def _complain(text: str) -> None:
    sys.stderr.write(f"galamp: warning: {text}\n")
