"""Going on with a node's part of a run: with the others, or alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from galamp.core.cluster_config import ClusterConfig
from galamp.core.config import to_dict
from galamp.memory.learner_state import STATE_COUNTERS, State
from galamp.storage.run_folder import CONFIG
from galamp.training.resume import _restore_steps_elsewhere
from galamp.training.resume_config import resumed_config
from tests.supervision.test_border import _port, config, laid_out

assert _port, "the fixture"


def test_it_stays_a_node_unless_it_goes_on_alone(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(to_dict(config(1))))
    assert resumed_config(tmp_path, {}).cluster == config(1).cluster
    assert resumed_config(tmp_path, {("cluster", "nodes"): 1}).cluster == ClusterConfig()


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_agent_steps_of_the_others_are_counted_on(nodes: int, tmp_path: Path) -> None:
    """Alone, the first learner has them: the total is that of the checkpoint."""
    _, layout = laid_out(0, tmp_path, nodes)
    sizes = layout.sketch.state_sizes
    for rank in range(2):
        tensors = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
        counters = dict.fromkeys(STATE_COUNTERS, 10)
        state = State(tensors, counters, np.zeros(16, np.uint8))
        layout.states[rank].save(state, save_id=0, incarnation=0)
        layout.status_board.learner(rank)["agent_steps"] = 10
    _restore_steps_elsewhere({"steps_elsewhere": [30, 40]}, layout)
    assert layout.status_board.agent_steps() == 90
    own = [layout.status_board.learner(rank)["agent_steps"] for rank in range(2)]
    assert own == ([80, 10] if nodes == 1 else [10, 10])
    found = layout.states[0].restore()
    assert found is not None
    assert found[0].counters["agent_steps"] == own[0]
    _restore_steps_elsewhere({}, laid_out(0, tmp_path, 1)[1])
