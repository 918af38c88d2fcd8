"""Resuming a run: states, counters and curves of an earlier start, restored into a new run layout.

    checkpoint, config.json --> ResumePoint --states_for, restore--> StateSlots, curves

Runs in the supervisor before any learner starts. The number of learners may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from galamp.core.config import GossipConfig, RunConfig, to_dict
from galamp.core.errors import UserError
from galamp.core.older_configs import up_to_date
from galamp.core.seeding import seed_for
from galamp.core.settings import AUTO, Setting, duration_text, settings, shown
from galamp.gossip.consensus.distances import distances_between
from galamp.gossip.exchange import averages_gradients
from galamp.gossip.topologies import FILE
from galamp.memory.learner_state import GENERATOR_BYTES_OF, STATE_COUNTERS, State
from galamp.storage.gossip_log import GOSSIP, GossipLog, Start
from galamp.storage.inspection import GRAPH, is_own_file
from galamp.storage.run_folder import CONFIG, RunFolder, read_json
from galamp.storage.run_logs import Warn, curve
from galamp.supervision.layout import RunLayout
from galamp.supervision.plan import Plan
from galamp.telemetry.consensus import History
from galamp.telemetry.metric_history import rows_before
from galamp.telemetry.recorder import SESSIONS, STEPS_ELSEWHERE, Recorder
from galamp.training.resize import resized
from galamp.training.resume_point import ResumePoint


def graph_file(plan: Plan, resume: Path | None) -> Path | None:
    """Return the file that holds the gossip graph; None if the graph is not from a file.

    A run that is resumed with the graph that it had reads its own copy, which is no link.
    """
    name = plan.config.gossip.topology
    if not name.startswith(FILE):
        return None
    if resume is not None and is_own_file(resume / GRAPH):
        stored = read_json(resume / CONFIG).get("gossip")
        if isinstance(stored, dict) and stored.get("topology") == name:
            return resume / GRAPH
    return Path(name.removeprefix(FILE))


def states_for(run_layout: RunLayout, resume_point: ResumePoint, start: int) -> list[State]:
    """Return the state that each learner of `run_layout` starts from, in start number `start`.

    Raises:
        UserError: the learners' parameters have to be identical, and are not.
    """
    config = run_layout.plan.config
    ranks = map(run_layout.plan.ranks.among_all, range(run_layout.count))
    seeds = [seed_for(config.seed, rank, start) for rank in ranks]
    sketch = run_layout.sketch
    states = resized(resume_point.states(sketch.layout), seeds, sketch.normaliser)
    if config.gossip.synchronous:
        _align(states, run_layout.plan.agent_steps_per_update, config.gossip)
    return states


def restore(
    states: Sequence[State],
    resume_point: ResumePoint,
    run_layout: RunLayout,
    recorder: Recorder,
    folder: RunFolder,
    kind: str = "resume",
) -> None:
    """Write the states into the learners' slots, and continue all counters; `kind` of event."""
    for rank, state in enumerate(states):
        run_layout.states[rank].save(state, save_id=0, incarnation=0)
        run_layout.publish_moments(rank, state)
        row = run_layout.status_board.learner(rank)
        for name in STATE_COUNTERS:
            row.set_counter(name, state.counters[name])
    progress = resume_point.checkpoint.progress
    _restore_steps_elsewhere(progress, run_layout)
    recorder.resume_from(
        progress, curve(folder.metrics), rows_before(folder.metrics, run_layout.count)
    )
    recorder.log_event(f"goes on from {progress['agent_steps']:,} agent steps", kind=kind)
    for line in changes(resume_point.checkpoint.config, run_layout.plan.config):
        recorder.log_event(line, kind="setting")
    if other_generators(states, run_layout.plan):
        recorder.log_event(
            "actions are drawn from new generators: the saved ones are of another kind of device"
        )
    for skipped in resume_point.skipped:
        recorder.log_event(f"damaged checkpoint passed over: {skipped}", kind="checkpoint")


def _restore_steps_elsewhere(progress: dict[str, Any], run_layout: RunLayout) -> None:
    """Count on from what the learners of other nodes had done; the first one here has it if alone.

    They tell what they have done since. The run has the place that it had, see `resume_place`.
    What those here had done is noted before any process starts: a bridge may begin much later.
    """
    steps, board = progress.get(STEPS_ELSEWHERE, ()), run_layout.status_board
    if run_layout.board is not None:
        for rank in range(run_layout.count):
            run_layout.board.set_rank(rank, "at_start", board.learner(rank)["agent_steps"])
        run_layout.board.come_after(tuple(progress.get(SESSIONS, ())))
    if run_layout.plan.place is not None:
        for rank, count in zip(run_layout.plan.ranks.remote, steps, strict=bool(steps)):
            board.learner(rank)["agent_steps"] = count
    elif steps:
        board.learner(0)["agent_steps"] += sum(steps)
        found = run_layout.states[0].restore()
        assert found is not None
        found[0].counters["agent_steps"] = board.learner(0)["agent_steps"]
        run_layout.states[0].save(found[0], save_id=0, incarnation=0)


def other_generators(states: Sequence[State], plan: Plan) -> bool:
    """Return whether a saved generator is of another kind than its learner's device now."""
    kinds = (learner.device.partition(":")[0] for learner in plan.learners)
    return any(
        state.generator.size != GENERATOR_BYTES_OF[kind]
        for state, kind in zip(states, kinds, strict=True)
    )


def changes(before: dict[str, Any], config: RunConfig) -> list[str]:
    """Return one line for each setting that differs from the checkpoint's.

    Args:
        before: the settings in the checkpoint; those that an older galamp did not know are missing.
        config: the settings now.
    """
    known = {(setting.section, setting.name) for setting in settings(config)}
    now, before = to_dict(config), up_to_date(before, known)
    lines = []
    for setting in settings(config):
        old_section = before.get(setting.section, {}) if setting.section else before
        new_section = now[setting.section] if setting.section else now
        if not (
            isinstance(old_section, dict) and setting.name in old_section and setting.option.stored
        ):
            continue
        old, new = old_section[setting.name], new_section[setting.name]
        if old != new:
            old_text, new_text = _value_text(setting, old), _value_text(setting, new)
            if old_text == new_text:  # they differ in digits that are not shown
                old_text, new_text = shown(old), shown(new)
            lines.append(f"{setting.name.replace('_', ' ')}: from {old_text} to {new_text}")
    return lines


def _value_text(setting: Setting, value: Any) -> str:
    """Return a setting's value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return setting.option.none or "the default"
    if setting.option.texts:
        return shown(" ".join(map(str, value)) or "none")
    if setting.option.auto and value == AUTO:
        return "auto"
    if setting.option.duration and type(value) is float:
        return duration_text(value)
    return f"{value:g}" if type(value) is float else shown(value)


def _align(states: list[State], agent_steps_per_update: int, gossip: GossipConfig) -> None:
    """Set learners that will run in lock-step to the same turn.

    It is the turn in which this number of learners would have made the run's agent steps, since the
    turn decides when they end.

    Raises:
        UserError: their parameters have to be identical, and are not.
    """
    done = sum(state.counters["agent_steps"] for state in states)
    identical = averages_gradients(gossip)
    for state in states:
        state.counters["turns"] = done // (agent_steps_per_update * len(states))
    for name in ("rounds", "updates") if identical else ("rounds",):
        most = max(state.counters[name] for state in states)
        for state in states:
            state.counters[name] = most
    first = states[0].tensors["parameters"]
    if identical and not all(np.array_equal(s.tensors["parameters"], first) for s in states):
        raise UserError(
            "--method allreduce: the learners in the checkpoint differ, expected to be one; "
            "resume with the method that it was made with"
        )


def history_of(
    run_layout: RunLayout,
    folder: RunFolder,
    states: Sequence[State],
    wall_s: float,
    warn: Warn,
) -> History | None:
    """Return what certifies the run; nothing where one learner is all, or nobody wants it.

    Args:
        run_layout: of this start.
        folder: where the gossip log is.
        states: what the learners go on from; none in a new run.
        wall_s: training time of the former starts.
        warn: takes one line about a disk that refuses.
    """
    gossip = run_layout.plan.config.gossip
    if run_layout.topology.size == 1 or not gossip.certificate:
        return None
    log = GossipLog(folder.path / GOSSIP, warn, folder.where)
    history = History(
        run_layout.arrays, run_layout.topology, log, warn, with_radius=gossip.has_radius,
        mirrors=run_layout.plan.ranks.remote,
    )  # fmt: skip
    history.start(first_entry(run_layout, states, float(wall_s), run_layout.start))
    return history


def first_entry(
    run_layout: RunLayout, states: Sequence[State], wall_s: float, number: int
) -> Start:
    """Return the first line of this start's gossip log: the distances between the learners.

    Args:
        run_layout: of this start.
        states: the states that they resume from; empty in a new run, where all start alike. The
            first vector of another node's learner is, by definition, that of the same lane here.
            On several nodes learners begin where others are: the distances are those before that.
        wall_s: training time of the earlier starts, in seconds.
        number: number of this start.
    """
    count = run_layout.topology.size
    distances = np.zeros((count, count))
    if states:
        lanes = np.arange(count) % run_layout.count
        found, _ = distances_between(np.stack([s.tensors["parameters"] for s in states]))
        distances = found[np.ix_(lanes, lanes)]
    gossip = run_layout.plan.config.gossip
    rows = tuple(map(tuple, distances.tolist()))
    ranks = run_layout.plan.ranks
    place = None if run_layout.plan.place is None else (ranks.node, ranks.nodes)
    fixed = number, count, gossip.graph, gossip.synchronous, wall_s, rows, place
    return Start(*fixed, outer=gossip.outer_steps, adopted=place is not None)
