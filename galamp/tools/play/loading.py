"""The agent and the environment of a game that is looked at, from a run folder or checkpoint.

path, PlayConfig --load--> Agent, FilmedEnvironment: whole games, true rewards, own protocol
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from galamp.algorithms.networks import check_network_asked
from galamp.core.errors import UserError
from galamp.core.seeding import seed_for, seed_generators
from galamp.core.settings import shown
from galamp.core.user_code import check_all_asked
from galamp.environments import finish_probe, start_probe
from galamp.environments.failures import failures_reported
from galamp.environments.names import check_asked
from galamp.environments.screens import FilmedEnvironment, filmed
from galamp.storage.run_folder import CHECKPOINTS
from galamp.tools.evaluation.agent import Agent
from galamp.tools.evaluation.trained import MEAN, Learner, locate, read
from galamp.tools.play.config import PlayConfig

WHICH = ("best", "latest")


def load(path: Path, config: PlayConfig) -> tuple[Agent, FilmedEnvironment]:
    """Return the agent, on the CPU, and the environment of its training, with frames.

    Raises:
        UserError: one of them cannot be had; the environment is probed first, since a bad ROM would
            end this process.
    """
    learner = learner_of(config.learner)
    trained = read(_checkpoint(path, config.checkpoint), learner)
    stored = trained.environment
    check_asked(stored.env_id, config.env_id, "the checkpoint")
    check_all_asked("--wrapper", stored.wrapper, config.wrapper, "the checkpoint", "add")
    network = trained.checkpoint.identity.network
    check_network_asked(network, config.network, "the checkpoint")
    environment = dataclasses.replace(stored, life_loss_ends=False, clip_rewards=False, num_envs=1)
    probe = start_probe(environment, timeout_s=config.start_timeout_s, seed=config.seed)
    trained.check_fits(finish_probe(probe))
    torch.set_num_threads(1)
    agent = Agent(trained, learner, torch.device("cpu"), network=config.network)
    agent.seed(seed_for(config.seed, 0))
    seed_generators(config.seed)
    with failures_reported(stored.env_id):
        return agent, filmed(environment, seed_for(config.seed, 1))


def learner_of(text: str) -> Learner:
    """Return whose parameters `text` means.

    Raises:
        UserError: nobody's.
    """
    if text == MEAN:
        return MEAN
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return int(text)
    raise UserError(f"--learner {shown(text)}: expected mean, or a learner's rank such as 0")


def _checkpoint(path: Path, name: str) -> Path:
    """Return the folder of the checkpoint that is meant.

    Raises:
        UserError: there is none.
    """
    if name in ("", *WHICH):
        return locate(path, name or None, flag="--checkpoint").path
    if "/" in name or not name.startswith("ckpt-"):
        raise UserError(
            f"--checkpoint {shown(name)}: expected best, latest, or a name in "
            f"{path / CHECKPOINTS}, such as ckpt-000000500000"
        )
    return locate(path / CHECKPOINTS / name).path
