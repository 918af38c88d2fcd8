"""Results of a training: which checkpoint, which parameters, which environment.

    path --locate--> ckpt-<steps>/ --read--> Trained --parameters(learner)--> named arrays

Runs wherever a trained agent is used: in evaluation and in users' programs. Needs no torch, and
builds no environment: a checkpoint may name a factory, and reading one must not run it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from galamp.core.config import EnvironmentConfig, from_dict
from galamp.core.disk import in_home
from galamp.core.errors import CheckpointError, UserError
from galamp.core.normalisation import Saved, Scales, normaliser_spec, scales_of_all
from galamp.core.settings import shown
from galamp.environments.base import EnvironmentSpec
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import MANIFEST, Checkpoint, Found, LearnerState
from galamp.storage.links import BEST

MEAN: Literal["mean"] = "mean"
Learner = int | Literal["mean"]
"""A learner's rank, or the mean of all learners' parameters."""

Parameters = dict[str, npt.NDArray[np.float32]]
"""By name, in standard PyTorch layout."""

PIECE = 2**16
"""Number of values that are summed in float64 at a time."""


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

    @property
    def mean_of(self) -> int:
        """Number of learners that the mean is of; see `parameters`."""
        mean = self.checkpoint.mean
        return len(self.checkpoint.learners) if mean is None else mean.learners

    def parameters(self, learner: Learner) -> Parameters:
        """Return one learner's parameters, or the mean of all that were read.

        The mean is the consensus of the gossip (Assran et al. 2019): each learner stays within a
        ball around it. In a run on several nodes it is that of all of them, if the checkpoint has
        it: that of the lowest node that was there.

        Raises:
            CheckpointError: a parameter is not finite, or that learner was not read.
        """
        mean = self.checkpoint.mean
        if learner == MEAN and mean is not None:
            self._check_finite(mean.parameters, "the mean of all nodes")
            return mean.parameters
        chosen = [s for s in self.checkpoint.learners if learner in (MEAN, s.rank)]
        if not chosen:
            raise CheckpointError(f"checkpoint {self.path}: learner {learner} was not read")
        for state in chosen:
            self._check_finite(state.parameters, f"learner {state.rank}")
        names = [name for name, _ in self.checkpoint.identity.layout]
        return {name: _mean([state.parameters[name] for state in chosen]) for name in names}

    def scales(self, learner: Learner) -> Scales | None:
        """Return the scales of one learner's observations, or those of all learners' data together.

        None if observations are not normalised. Parameters are of raw observations, whoever's.

        Raises:
            CheckpointError: the checkpoint has no sound statistics.
        """
        if not self.environment.norm_obs:
            return None
        spec = normaliser_spec(self.environment, self.checkpoint.identity.observation_shape)
        assert spec is not None
        chosen = [s for s in self.checkpoint.learners if learner in (MEAN, s.rank)]
        try:
            saved = [Saved.unpacked(state.normaliser, spec) for state in chosen]
        except ValueError as error:
            raise CheckpointError(
                f"checkpoint {self.path}: no sound statistics of observations ({error})"
            ) from None
        return scales_of_all(saved, spec) if learner == MEAN else saved[0].scales

    def _check_finite(self, parameters: Parameters, whose: str) -> None:
        if not all(np.isfinite(value).all() for value in parameters.values()):
            raise CheckpointError(
                f"checkpoint {self.path}: {whose} has parameters that are not finite; use an "
                "earlier checkpoint"
            )

    def without_learners(self) -> Trained:
        """Return a copy without the learners' states."""
        checkpoint = dataclasses.replace(self.checkpoint, learners=(), mean=None)
        return dataclasses.replace(self, checkpoint=checkpoint)

    def check_fits(self, spec: EnvironmentSpec) -> None:
        """Compare with the environment that is installed here.

        Raises:
            CheckpointError: its observations or actions are not those of the training.
        """
        identity = self.checkpoint.identity
        trained = (identity.observation_shape, identity.actions)
        if trained != (spec.observation_shape, spec.actions):
            raise CheckpointError(
                f"checkpoint {self.path}: trained on observations {list(trained[0])} and "
                f"{trained[1].describe()}, but {spec.env_id} has {list(spec.observation_shape)} "
                f"and {spec.actions.describe()} here; install the version that it was trained with"
            )
        scale = dataclasses.replace(spec, observation_scale=identity.observation_scale).scale
        if scale != spec.scale:
            raise CheckpointError(
                f"checkpoint {self.path}: trained on observations times {scale:g}, but the bounds "
                f"of those of {spec.env_id} ask for {spec.scale:g} here; install the version that "
                "it was trained with"
            )


def _mean(values: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return the mean of arrays of one shape; takes no more memory than the result.

    Sums are in float64, so that no digit is lost whatever the number of arrays.
    """
    mean = np.empty(values[0].shape, np.float32)
    flat, flats = mean.reshape(-1), [value.reshape(-1) for value in values]
    for start in range(0, flat.size, PIECE):
        piece = slice(start, start + PIECE)
        total = np.zeros(flat[piece].shape, np.float64)
        for each in flats:
            total += each[piece]
        flat[piece] = total / len(values)
    return mean


def locate(path: str | Path, which: str | None = None, flag: str = "--which") -> Found:
    """Return the checkpoint that `path` means.

    Args:
        path: a run folder, its `checkpoints`, one checkpoint, or the link `best` or `latest`.
        which: `best` (of the mean score of 100 training episodes, or of the evaluations while it
            trained, if there were any) or `latest`, where `path` holds several; by default the
            best one if there is one, else the latest.
        flag: what the user gives `which` by.

    Raises:
        CheckpointError: there is no whole checkpoint, or the best one is damaged.
        UserError: `which` is given, but `path` is one checkpoint.
    """
    path = in_home(path)
    place = checkpoints.place_of(path)
    if os.path.lexists(place / MANIFEST):
        if which is not None:
            raise UserError(f"{path} is one checkpoint: leave out {flag}, or name its run folder")
        return Found(place, (), place)
    inner = place / "checkpoints"
    best = checkpoints.linked(inner if os.path.isdir(inner) else place, BEST)
    if which != "latest" and best is not None:
        _check_best(best, place, flag)
        return Found(best, (), place)
    if which == "best":
        raise CheckpointError(f"{path}: has no best checkpoint; ask for the latest")
    return checkpoints.find(place)


def _check_best(best: Path, place: Path, flag: str) -> None:
    """Check that the best checkpoint is whole; no other one replaces it unasked.

    Raises:
        CheckpointError: it is damaged; the latest one is named if it is whole.
    """
    try:
        checkpoints.load(best, learners=())
    except CheckpointError as error:
        try:
            latest = checkpoints.find(place).path.name
        except CheckpointError:
            raise error from None
        raise CheckpointError(
            f"{error}; it is the best one, {latest} is whole: ask for the latest ({flag} latest)"
        ) from None


def read(path: Path, learner: Learner | None = MEAN) -> Trained:
    """Read the checkpoint in folder `path`, every byte of it verified.

    States of optimisers and generators are left out: evaluation needs none.

    Args:
        path: as `locate` returns it.
        learner: the learner whose tensors are wanted; the mean needs all of them.

    Raises:
        CheckpointError: its error, in one line.
    """
    ranks = None if learner in (None, MEAN) else (_rank(learner),)
    checkpoint = checkpoints.load(path, learners=ranks, mean=learner == MEAN)
    players = tuple(map(_without_training, checkpoint.learners))
    checkpoint = dataclasses.replace(checkpoint, learners=players)
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


def _without_training(state: LearnerState) -> LearnerState:
    return dataclasses.replace(state, optimizer={}, generator=np.zeros(0, np.uint8))


def _rank(learner: Any) -> int:
    if type(learner) is not int or learner < 0:
        raise UserError(f"learner {learner!r}: expected {MEAN} or a learner's rank, 0 or more")
    return learner
