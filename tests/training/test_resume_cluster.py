"""Going on with a node's part of a run: with the others, or alone."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from galamp.core.cluster_config import ClusterConfig
from galamp.core.config import to_dict
from galamp.core.errors import UserError
from galamp.memory.learner_state import STATE_COUNTERS, Sizes, State
from galamp.storage import checkpoint as checkpoints
from galamp.storage.learning_curve import Curve
from galamp.storage.run_folder import CONFIG, RunFolder, StoredChoices
from galamp.telemetry.consensus import ConsensusMonitor
from galamp.telemetry.recorder import Recorder
from galamp.telemetry.sinks.group import SinkGroup
from galamp.training.checkpointing import Saver
from galamp.training.resolve import resolve_run
from galamp.training.resume import _restore_steps_elsewhere
from galamp.training.resume_config import resumed_config
from galamp.training.resume_place import check_place
from galamp.training.resume_point import ResumePoint
from galamp.training.train import identity_of
from tests.supervision.test_border import MACHINE, _port, config, laid_out
from tests.support.checkpoints import made

assert _port, "the fixture"


def test_it_stays_a_node_unless_it_goes_on_alone(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(to_dict(config(1))))
    assert resumed_config(tmp_path, {}).cluster == config(1).cluster
    assert resumed_config(tmp_path, {("cluster", "nodes"): 1}).cluster == ClusterConfig()


def state_of(sizes: Sizes) -> State:
    tensors = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
    return State(tensors, dict.fromkeys(STATE_COUNTERS, 10), np.zeros(16, np.uint8))


def test_a_checkpoint_names_the_starts_whose_agent_steps_it_holds(tmp_path: Path) -> None:
    """A start that goes on from it is after them: it is not taken for one that they know not."""
    resolved, layout = laid_out(0, tmp_path, 2)
    identity = identity_of(resolved.plan, layout.environment, layout.sketch)
    assert layout.board is not None
    layout.board.begin(3, 2**61, (8, 9))
    layout.board.counts(0, range(2))[:, 0] = 5
    states = [state_of(layout.sketch.state_sizes) for _ in range(2)]
    saved = Saver(layout, identity, tmp_path, print)._gather(states, {})
    assert saved.progress == {"sessions": [2**61, 8, 9], "agent_steps": 30}
    path = checkpoints.save(tmp_path / "checkpoints", saved)
    assert checkpoints.load(path).progress == saved.progress


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_agent_steps_of_the_others_are_counted_on(nodes: int, tmp_path: Path) -> None:
    """Alone, the first learner has them: the total is that of the checkpoint."""
    _, layout = laid_out(0, tmp_path, nodes)
    sizes = layout.sketch.state_sizes
    for rank in range(2):
        layout.states[rank].save(state_of(sizes), save_id=0, incarnation=0)
        layout.status_board.learner(rank)["agent_steps"] = 10
    _restore_steps_elsewhere({"steps_elsewhere": [30, 40], "sessions": [2**61, 7]}, layout)
    assert layout.status_board.agent_steps() == 90
    if nodes == 2:
        assert layout.board is not None
        noted = [layout.board.rank(rank, "at_start") for rank in layout.plan.ranks.remote]
        assert [layout.board.rank(rank, "at_start") for rank in range(2)] == [10, 10]
        assert noted == [0, 0]
        assert layout.board.own.after == (2**61, 7)
        layout.board.begin(1, 9, layout.board.own.after)
        assert layout.board.sessions == (9, 2**61, 7)
    own = [layout.status_board.learner(rank)["agent_steps"] for rank in range(2)]
    assert own == ([80, 10] if nodes == 1 else [10, 10])
    found = layout.states[0].restore()
    assert found is not None
    assert found[0].counters["agent_steps"] == own[0]
    _restore_steps_elsewhere({}, laid_out(0, tmp_path, 1)[1])


def left(**progress: object) -> ResumePoint:
    """What a start with two learners has left."""
    checkpoint = made()
    return ResumePoint(Path("a-run"), replace(checkpoint, progress=progress), ())


WAS_NODE_0_OF_2 = {"steps_elsewhere": [30, 40], "machines": [0, 2, 2]}
OLDER = {"steps_elsewhere": [30, 40]}
ALONE = {"machines": [0, 2, 2]}


@pytest.mark.parametrize("progress", [WAS_NODE_0_OF_2, OLDER])
@pytest.mark.parametrize(
    ("node", "nodes", "learners", "would"),
    [
        (0, 2, 4, "machine 0 of 2 with 4 learners"),
        (0, 2, 1, "machine 0 of 2 with 1 learner,"),
        (0, 3, 2, "machine 0 of 3 with 2 learners"),
    ],
)
def test_another_number_of_machines_or_learners_is_refused(
    progress: dict[str, object], node: int, nodes: int, learners: int, would: str
) -> None:
    plan = resolve_run(config(node, nodes, learners), MACHINE, StoredChoices()).plan
    with pytest.raises(UserError) as refused:
        check_place(left(**progress), plan)
    assert "was machine 0 of 2 with 2 learners, and would be " + would in str(refused.value)
    assert "--resume a-run" in str(refused.value)
    assert "--nodes 1" in str(refused.value)
    assert len(refused.value.problems) == 1


def test_another_place_is_refused() -> None:
    plan = resolve_run(config(1), MACHINE, StoredChoices()).plan
    with pytest.raises(UserError, match=r"was machine 0 of 2 .* would be machine 1 of 2"):
        check_place(left(**WAS_NODE_0_OF_2), plan)


def test_the_way_back_of_a_run_that_went_on_alone_is_refused() -> None:
    plan = resolve_run(config(0), MACHINE, StoredChoices()).plan
    with pytest.raises(UserError, match=r"gone on alone.*all 2 machines.*--nodes 1 only"):
        check_place(left(**ALONE), plan)


def test_the_same_place_one_machine_and_a_run_of_one_machine_are_taken() -> None:
    two, one, three = (
        resolve_run(config(0, nodes, learners), MACHINE, StoredChoices()).plan
        for nodes, learners in ((2, 2), (1, 3), (3, 2))
    )
    for progress in (WAS_NODE_0_OF_2, OLDER):
        check_place(left(**progress), two)
    for progress in (WAS_NODE_0_OF_2, OLDER, ALONE, {}):
        check_place(left(**progress), one)
    check_place(left(), three)


@pytest.mark.parametrize(("nodes", "before"), [(2, {}), (1, {}), (1, WAS_NODE_0_OF_2), (1, ALONE)])
def test_a_checkpoint_tells_the_place_also_of_a_run_that_goes_on_alone(
    nodes: int, before: dict[str, object], tmp_path: Path
) -> None:
    _, layout = laid_out(0, tmp_path, nodes)
    recorder = Recorder(
        layout,
        RunFolder.create(None, tmp_path / "run", "x", "x", 1, datetime.now()),
        SinkGroup(print),
        ConsensusMonitor(layout, None),
    )
    progress = recorder.progress()
    recorder.resume_from(progress | before, Curve())
    found = recorder.progress()
    recorder.close()
    assert found.get("machines") == ([0, 2, 2] if nodes == 2 or before else None)
    assert ("steps_elsewhere" in found) == (nodes == 2)
