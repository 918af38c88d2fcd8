"""One training from settings to summary: look at environment and machine, plan, run, conclude.

    RunConfig --> probe, plan --> RunFolder, Arena --> Supervisor.run --> summary.json

Runs in the parent. All that a user can have got wrong is found here, before any worker starts.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import torch

from galamp.arena import Arena, identity_of, sketch_model
from galamp.config import RunConfig, to_dict
from galamp.consensus import ConsensusMonitor, History
from galamp.display.dashboard import make_display
from galamp.environments import canonical_env_id, finish_probe, start_probe
from galamp.forking import start_server
from galamp.gossip.topologies import FILE, make_topology
from galamp.gossip.topologies.base import Topology
from galamp.plan import Plan, inspect_machine, lacks_bf16, make_plan
from galamp.recorder import Recorder
from galamp.resuming import Former, first_entry, graph_file, load_former, take_over
from galamp.saving import Saver
from galamp.storage.gossiplog import GOSSIP, GossipLog
from galamp.storage.runfolder import RunFolder
from galamp.storage.runlogs import MetricsLog
from galamp.summary import summarise, versions
from galamp.supervisor import Companion, RunResult, Supervisor


@dataclass(frozen=True)
class Outcome:
    """A training that has ended: how, and its summary as written to summary.json."""

    result: RunResult
    summary: dict[str, Any]
    folder: Path


def train(
    config: RunConfig,
    *,
    resume: Path | None = None,
    screen: TextIO | None = None,
    companions: Sequence[Companion] = (),
) -> Outcome:
    """Train as `config` says; with `resume`, go on with the run in that folder.

    Raises:
        UserError: something about the settings, the machine or the folder has to be changed first.
    """
    began_s, began = time.monotonic(), datetime.now()
    config = _with_canonical_environment(config)
    start_server()
    torch.set_num_threads(1)
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
    folder = _open_folder(plan, former, began)
    try:
        metrics = MetricsLog(
            folder.metrics, former.checkpoint.progress["agent_steps"] if former else 0, _complain
        )
        arena = Arena(plan, topology, environment, sketch, folder.logs, metrics.start)
        consensus = ConsensusMonitor(arena, _history(arena, folder, former, metrics.start))
        recorder = Recorder(arena, folder, metrics, consensus)
        saver = Saver(arena, identity, folder.checkpoints, recorder.tell)
        if former is not None:
            take_over(former, arena, recorder, saver, folder)
        if graph is not None:
            folder.keep_graph(graph)
        folder.write_config(_stored_config(plan, arena))
        _tell_choices(plan, recorder)
        gc.freeze()
        with make_display(plan.config.report.quiet, screen or sys.stderr) as display:
            result = Supervisor(arena, recorder, saver, display, companions).run()
        summary = summarise(result, arena, recorder, metrics.start, time.monotonic() - began_s)
        folder.write_summary(summary)
        return Outcome(result, summary, folder.path)
    finally:
        folder.close()


def _topology(plan: Plan, file: Path | None) -> Topology:
    config = plan.config
    name = config.gossip.topology if file is None else f"{FILE}{file}"
    return make_topology(name, len(plan.learners), config.gossip.gossip_weights, config.seed)


def _with_canonical_environment(config: RunConfig) -> RunConfig:
    env_id = canonical_env_id(config.environment.env_id)
    return replace(config, environment=replace(config.environment, env_id=env_id))


def _open_folder(plan: Plan, former: Former | None, began: datetime) -> RunFolder:
    if former is not None:
        return RunFolder.open(former.folder)
    report, config = plan.config.report, plan.config
    name = report.name or f"{_label(config)}{len(plan.learners)}"
    return RunFolder.create(
        None, report.run_dir, config.environment.env_id, name, config.seed, began
    )


def _history(arena: Arena, folder: RunFolder, former: Former | None, start: int) -> History | None:
    """Return what certifies the run; nothing where one learner is all, or nobody wants it."""
    gossip = arena.plan.config.gossip
    if arena.count == 1 or not gossip.certificate:
        return None
    log = GossipLog(folder.path / GOSSIP, _complain)
    lock_step = gossip.lock_step
    history = History(arena.arrays, arena.topology, log, _complain, lock_step=lock_step)
    history.begin(first_entry(arena, former, start))
    return history


def _label(config: RunConfig) -> str:
    """Return how a run is called: by its method, or for GALA by its graph."""
    gossip = config.gossip
    if gossip.method != "gala":
        return gossip.method
    return Path(gossip.topology).stem if gossip.topology.startswith(FILE) else gossip.topology


def _tell_choices(plan: Plan, recorder: Recorder) -> None:
    config = plan.config
    recorder.tell(
        f"{len(plan.learners)} learners of {config.environment.num_envs} simulators on "
        f"{config.resources.device}, learning rate {config.algorithm.learning_rate:.3g}"
    )
    if config.algorithm.precision == "bf16" and config.resources.device == "cpu" and lacks_bf16():
        recorder.tell("--precision bf16: this processor has no units for it; float32 is faster")


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


def _complain(text: str) -> None:
    sys.stderr.write(f"galamp: warning: {text}\n")
