"""The same bits: learners in threads, and real runs, against learners of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from galamp.storage import checkpoint
from galamp.supervision.plan import Plan
from tests.support.engine import run
from tests.support.in_process import LearnerInThread, train_in_process
from tests.support.reference import ReferenceLearner


def assert_learners_equal(
    plan: Plan, expected: Sequence[ReferenceLearner]
) -> list[LearnerInThread]:
    """Train in threads, and compare; returns the learners."""
    learners = train_in_process(plan)
    for learner, reference in zip(learners, expected, strict=True):
        state = learner.algorithm.state()
        assert state.keys() == reference.algorithm.state().keys()
        for name, tensor in reference.algorithm.state().items():
            assert torch.equal(state[name], tensor), (learner.task.rank, name)
        drawn = learner.algorithm.generator.get_state()
        assert torch.equal(drawn, reference.algorithm.generator.get_state())
        assert learner.status["updates"] == reference.algorithm.version > 0
    return learners


def assert_run_equals(
    folder: Path, words: Sequence[str], expected: Sequence[ReferenceLearner]
) -> checkpoint.Checkpoint:
    """Train in processes, and compare what is saved; returns the last checkpoint."""
    ended = run(*words, "--quiet", "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    saved = checkpoint.load(folder / "checkpoints" / "latest")
    for learner, reference in zip(saved.learners, expected, strict=True):
        for name, value in reference.algorithm.parameters.named().items():
            assert np.array_equal(learner.parameters[name], value.numpy()), (learner.rank, name)
        state = reference.algorithm.state()
        assert learner.optimizer.keys() == state.keys() - {"parameters"}
        for name, values in learner.optimizer.items():
            assert np.array_equal(values, state[name].numpy()), (learner.rank, name)
        drawn = reference.algorithm.generator.get_state()
        assert np.array_equal(learner.generator, drawn.numpy())
        assert learner.counters["updates"] == reference.algorithm.version > 0
    return saved
