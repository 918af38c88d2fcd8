"""One training from settings to summary: probe the environment and machine, plan, run.

    RunConfig --> probe, plan --> RunFolder --> Session: one attempt after another --> summary.json

Runs in the parent. All errors in the settings are found here, before any worker starts.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TextIO

import torch

from galamp.core import installation
from galamp.core.config import RunConfig
from galamp.core.errors import UserError
from galamp.core.machine.machine import inspect_machine
from galamp.core.processes.reaper import is_claimed
from galamp.core.processes.titles import run_name, show_title
from galamp.core.sanitize import clean
from galamp.environments import finish_probe, start_probe
from galamp.environments.base import EnvironmentSpec
from galamp.environments.names import canonical_env_id
from galamp.gossip.topologies import FILE
from galamp.storage.checkpoint import Identity
from galamp.storage.run_folder import RunFolder, StoredChoices
from galamp.supervision.layout import ModelSketch, sketch_model
from galamp.supervision.plan import Plan, check_processes
from galamp.supervision.signals import Signals
from galamp.telemetry.display.dashboard import make_display
from galamp.telemetry.display.streams import SafeStream, announce, fill_closed, warn
from galamp.telemetry.sinks import load_sinks
from galamp.training.control.server import ControlServer
from galamp.training.resolve import ResolvedRun, resolve_run
from galamp.training.resume import changes
from galamp.training.resume_place import check_place
from galamp.training.resume_point import ResumePoint, load_resume_point
from galamp.training.session import Outcome, RunContext, Session
from galamp.training.stopping import StopConditions
from galamp.training.supervisor import Callback
from galamp.training.surroundings import known_rates
from galamp.workers.forkserver import name_server, sigchld_enabled, start_server

__all__ = ["Outcome", "train"]


def train(
    config: RunConfig,
    *,
    resume: RunFolder | None = None,
    screen: TextIO | None = None,
    callbacks: Sequence[Callback] = (),
    signals: Signals | None = None,
) -> Outcome:
    """Train with the settings in `config`.

    Args:
        config: the settings.
        resume: the folder of a run to resume, locked since before its config was read.
        screen: where the dashboard is drawn (default: standard error).
        callbacks: called in every iteration of the supervisor's loop.
        signals: an entered signal handler (default: a new one).

    Raises:
        UserError: the settings, the machine or the folder have to be changed first.
        StoppedBySignal: a signal has come before there was anything to save.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UserError("train: Python receives signals in its main thread only; call it there")
    fill_closed()
    with sigchld_enabled(), _signal_handler(signals, config.report.on_hangup) as handler:
        return _train(config, resume, screen, callbacks, handler)


def _train(
    config: RunConfig,
    resume: RunFolder | None,
    screen: TextIO | None,
    callbacks: Sequence[Callback],
    signals: Signals,
) -> Outcome:
    began = datetime.now()
    resume_point = None
    conditions = StopConditions(config.stop)
    load_sinks(config.report.sinks)
    with signals.raising():
        start_server()
        torch.set_num_threads(1)
        context, resolved = survey(config, resume.kept if resume else StoredChoices())
        if resume is not None:
            sketch = context.sketch
            resume_point = load_resume_point(
                resume.path, context.identity, sketch.state_sizes, sketch.normaliser
            )
            check_place(resume_point, resolved.plan)
    folder = resume or _make_folder(resolved.plan, began)
    installation.name_run(folder.path)
    _name_processes(folder.path)
    report = resolved.plan.config.report
    if folder.warning:
        warn(folder.warning)
    if resume_point is not None and not report.quiet:
        _announce_changes(resume_point, resolved.plan, screen or sys.stderr)
    try:
        with (
            make_display(report.quiet, screen or sys.stderr, stop=signals.ask_to_stop) as display,
            ControlServer(folder.path, warn) as control_server,
        ):
            session = Session(
                context, folder, display, control_server, signals, [*callbacks, conditions]
            )
            return session.run(resolved, resume_point)
    finally:
        folder.close()


def _name_processes(folder: Path) -> None:
    """Have the titles of the server and, if it is galamp's alone, this process name the run."""
    name = run_name(folder)
    name_server(name)
    if is_claimed():
        show_title(name, "supervisor")


def _announce_changes(resume_point: ResumePoint, plan: Plan, screen: TextIO) -> None:
    """Print every setting that changed above the live screen, whose list of events is short.

    Elsewhere all events are printed, and these are among them.
    """
    if SafeStream(screen).isatty():
        for line in changes(resume_point.checkpoint.config, plan.config):
            announce(f"galamp: {clean(line)}\n", screen)


def _signal_handler(signals: Signals | None, on_hangup: str) -> AbstractContextManager[Signals]:
    """Return a context manager of `signals`, or of a new signal handler."""
    return nullcontext(signals) if signals else Signals(detach=on_hangup == "detach")


def survey(
    config: RunConfig, kept: StoredChoices, known: EnvironmentSpec | None = None
) -> tuple[RunContext, ResolvedRun]:
    """Probe the environment, inspect the machine, and make every open choice.

    Args:
        config: the settings.
        kept: stored choices of a run that is resumed.
        known: what a probe of this environment has told before; None: it is probed.

    Raises:
        UserError: the environment cannot be used, or the settings do not fit the machine.
    """
    config = _with_canonical_environment(config)
    timeout_s = config.resources.start_timeout_s
    probe = None
    if known is None:
        probe = start_probe(config.environment, timeout_s=timeout_s, seed=config.seed)
    try:
        machine = inspect_machine(config.resources.device)
        resolved = resolve_run(config, machine, kept)
    except BaseException:
        if probe is not None:
            probe.cancel()
        raise
    environment = known if probe is None else finish_probe(probe)
    assert environment is not None
    check_processes(resolved.plan)  # now that the probe's processes have ended
    sketch = sketch_model(resolved.plan, environment)
    identity = identity_of(resolved.plan, environment, sketch)
    rates = known_rates(config, machine)
    return RunContext(machine, environment, sketch, identity, rates), resolved


def _with_canonical_environment(config: RunConfig) -> RunConfig:
    env_id = canonical_env_id(config.environment.env_id)
    return replace(config, environment=replace(config.environment, env_id=env_id))


def _make_folder(plan: Plan, began: datetime) -> RunFolder:
    report, config = plan.config.report, plan.config
    name = report.name or f"{_label(config)}{len(plan.learners)}{_label_of_node(plan)}"
    return RunFolder.create(
        None, report.run_dir, config.environment.env_id, name, config.seed, began
    )


def _label_of_node(plan: Plan) -> str:
    return "" if plan.place is None else f"x{plan.place.nodes}-node{plan.place.node}"


def _label(config: RunConfig) -> str:
    """Return how a run is called: by its method, or where learners gossip by its graph."""
    gossip = config.gossip
    if gossip.method != "gossip":
        return gossip.method
    return Path(gossip.topology).stem if gossip.topology.startswith(FILE) else gossip.topology


def identity_of(plan: Plan, environment: EnvironmentSpec, sketch: ModelSketch) -> Identity:
    """Return the identity that a checkpoint of this run must match."""
    return Identity(
        env_id=environment.env_id,
        protocol=environment.protocol,
        observation_shape=environment.observation_shape,
        actions=environment.actions,
        algorithm=plan.config.algorithm.algorithm,
        network=sketch.network,
        layout=tuple((span.name, span.shape) for span in sketch.layout),
        observation_scale=environment.observation_scale,
        outputs_are_values=plan.config.algorithm.outputs_are_values,
    )
