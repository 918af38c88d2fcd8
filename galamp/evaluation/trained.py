"""What a training left, found and read: which checkpoint, whose parameters, which environment.

    path --locate--> ckpt-<steps>/ --read--> Trained --parameters(learner)--> named arrays

Runs wherever a trained agent is used: in evaluation and in users' programs. Needs no torch, and
builds no environment: a checkpoint may name a factory, and reading one must not run it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from galamp.config import EnvironmentConfig, from_dict
from galamp.environments.base import EnvironmentSpec
from galamp.errors import CheckpointError, UserError
from galamp.options import shown
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import MANIFEST, Checkpoint, Found
from galamp.storage.disk import in_home
from galamp.storage.links import BEST

MEAN: Literal["mean"] = "mean"
Learner = int | Literal["mean"]
"""A learner's rank, or the mean of all learners' parameters."""

Parameters = dict[str, npt.NDArray[np.float32]]
"""By name, in standard PyTorch layout."""


@dataclass(frozen=True)
class Trained:
    """A checkpoint read from `path`, and the environment that it was trained in."""

    path: Path
    checkpoint: Checkpoint
    environment: EnvironmentConfig

    @property
    def agent_steps(self) -> int:
        """Agent steps of the training, over all learners."""
        return int(self.checkpoint.progress["agent_steps"])

    @property
    def ranks(self) -> list[int]:
        """Ranks of the learners that were read."""
        return sorted(learner.rank for learner in self.checkpoint.learners)

    def parameters(self, learner: Learner) -> Parameters:
        """Return one learner's parameters, or the mean of all that were read.

        The mean is what the gossip agrees on (Assran et al. 2019): each learner stays within a ball
        around it.

        Raises:
            CheckpointError: a parameter is not finite, or that learner was not read.
        """
        chosen = [s for s in self.checkpoint.learners if learner in (MEAN, s.rank)]
        if not chosen:
            raise CheckpointError(f"checkpoint {self.path}: learner {learner} was not read")
        for state in chosen:
            if not all(np.isfinite(value).all() for value in state.parameters.values()):
                raise CheckpointError(
                    f"checkpoint {self.path}: learner {state.rank} has parameters that are not "
                    "finite; use an earlier checkpoint"
                )
        mean: Parameters = {}
        for name, _ in self.checkpoint.identity.layout:
            values = np.stack([state.parameters[name] for state in chosen])
            # In float64, so that nothing is lost however many there are.
            mean[name] = np.asarray(values.mean(axis=0, dtype=np.float64), np.float32)
        return mean

    def check_fits(self, spec: EnvironmentSpec) -> None:
        """Compare with an environment as it is installed here.

        Raises:
            CheckpointError: its observations or actions are not those of the training.
        """
        identity = self.checkpoint.identity
        trained = (identity.observation_shape, identity.num_actions)
        if trained != (spec.observation_shape, spec.num_actions):
            raise CheckpointError(
                f"checkpoint {self.path}: trained on observations {list(trained[0])} and "
                f"{trained[1]} actions, but {spec.env_id} has {list(spec.observation_shape)} and "
                f"{spec.num_actions} here; install the version that it was trained with"
            )


def locate(path: str | Path, which: str | None = None) -> Found:
    """Return the checkpoint that `path` means.

    Args:
        path: a run folder, its `checkpoints`, one checkpoint, or the link `best` or `latest`.
        which: `best` (of the mean score of 100 training episodes) or `latest`, where `path` holds
            several; by default the best one if there is one, else the latest.

    Raises:
        CheckpointError: there is no whole checkpoint.
        UserError: `which` is given, but `path` is one checkpoint.
    """
    path = in_home(path)
    place = checkpoints.place_of(path)
    if os.path.lexists(place / MANIFEST):
        if which is not None:
            raise UserError(f"{path} is one checkpoint: leave out --which, or name its run folder")
        return Found(place, (), place)
    inner = place / "checkpoints"
    best = checkpoints.linked(inner if os.path.isdir(inner) else place, BEST)
    if which != "latest" and best is not None:
        return Found(best, (), place)
    if which == "best":
        raise CheckpointError(f"{path}: has no best checkpoint; ask for the latest")
    return checkpoints.find(place)


def read(path: Path, learner: Learner | None = MEAN) -> Trained:
    """Read the checkpoint in folder `path`, every byte of it verified.

    Args:
        path: as `locate` returns it.
        learner: whose tensors are wanted; the mean needs all of them.

    Raises:
        CheckpointError: one line saying what is wrong with it.
    """
    ranks = None if learner in (None, MEAN) else (_rank(learner),)
    checkpoint = checkpoints.load(path, learners=ranks)
    try:
        environment = from_dict(checkpoint.config).environment
    except (UserError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {path}: its settings are damaged: {error}") from None
    if environment.env_id != checkpoint.identity.env_id:
        raise CheckpointError(
            f"checkpoint {path}: is of game {checkpoint.identity.env_id}, "
            f"but its settings name {shown(environment.env_id)}"
        )
    return Trained(path, checkpoint, environment)


def _rank(learner: Any) -> int:
    if type(learner) is not int or learner < 0:
        raise UserError(f"learner {learner!r}: expected {MEAN} or a learner's rank, 0 or more")
    return learner
