"""Going on with a run: what an earlier start left, laid where this one looks for it.

    checkpoint, config.json, topology.txt --> Former --take_over--> StateSlots, counters, curves

Runs in the supervisor before any learner starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from galamp.arena import Arena
from galamp.errors import UserError
from galamp.gossip.exchange import averages_gradients
from galamp.gossip.measuring import distances_between
from galamp.gossip.topologies import FILE
from galamp.parameters import Span
from galamp.plan import Plan
from galamp.recorder import Recorder
from galamp.saving import Saver, saved_state
from galamp.state import STATE_COUNTERS, State
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint
from galamp.storage.gossiplog import Start
from galamp.storage.runfolder import CONFIG, GRAPH, RunFolder, read_json
from galamp.storage.runlogs import curve


@dataclass(frozen=True)
class Former:
    """What an earlier start of the run left."""

    folder: Path
    checkpoint: Checkpoint
    skipped: tuple[str, ...]

    def states(self, layout: Sequence[Span]) -> list[State]:
        """Return every learner's state, for a network of this layout."""
        return [saved_state(learner, tuple(layout)) for learner in self.checkpoint.learners]


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


def take_over(
    former: Former, arena: Arena, recorder: Recorder, saver: Saver, folder: RunFolder
) -> None:
    """Lay the checkpoint's states where the learners look for them when they start."""
    states = former.states(arena.sketch.layout)
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


def first_entry(arena: Arena, former: Former | None, number: int) -> Start:
    """Return the first line of this start's gossip log: how far apart the learners begin."""
    distances = np.zeros((arena.count, arena.count))
    wall_s = 0.0
    if former is not None:
        states = former.states(arena.sketch.layout)
        vectors = np.stack([state.tensors["parameters"] for state in states])
        distances, _ = distances_between(vectors)
        wall_s = float(former.checkpoint.progress["wall_s"])
    gossip = arena.plan.config.gossip
    rows = tuple(map(tuple, distances.tolist()))
    return Start(number, arena.count, gossip.topology, gossip.lock_step, wall_s, rows)
