"""Presets: settings by name that are known to work, which flags of the command line then change.

    --preset NAME --> Preset: algorithm and settings --> values below those of the command line

Data only. Environments are those of each learner; a published preset is for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from galamp.core.errors import UserError, did_you_mean

Values = dict[tuple[str, str], Any]
"""Settings by section and name."""


class Preset(NamedTuple):
    """Settings that differ from the algorithm's own: what they are for, and where they are from."""

    source: str
    algorithm: str
    settings: Mapping[str, Any]
    """By `section.name`; `.name` where there is no section."""
    result: str = ""
    """What was measured with it, as `galamp help evidence` has it; empty where nothing was."""


PPO_CARTPOLE = {
    "environment.env_id": "CartPole-v1",
    "environment.num_envs": 8,
    "algorithm.learning_rate": 1e-3,
    "algorithm.num_steps": 32,
    "algorithm.num_minibatches": 1,
    "algorithm.update_epochs": 20,
    "algorithm.gamma": 0.98,
    "algorithm.gae_lambda": 0.8,
    "algorithm.clip_coef": 0.2,
    "algorithm.anneal_clip": True,
    "algorithm.clip_vloss": False,
    "algorithm.vf_loss": "full",
    "algorithm.ent_coef": 0.0,
}
"""RL Baselines3 Zoo: ppo.yml, CartPole-v1."""

PRESETS = {
    "cartpole": Preset(
        "CartPole-v1 by one learner; RL Baselines3 Zoo: ppo.yml, CartPole-v1",
        "ppo",
        {
            **PPO_CARTPOLE,
            ".total_steps": 100_000,
            "resources.learners": 1,
        },
        "500 of 500 after 100,000 agent steps, a minute on 2 cores (seeds 1 and 2)",
    ),
    "debug": Preset(
        "CartPole-v1 by two learners in lock-step, repeatable to the last bit; seconds, to see "
        "that all works",
        "a2c",
        {
            ".total_steps": 2_000,
            "environment.env_id": "CartPole-v1",
            "environment.num_envs": 4,
            "gossip.sync": True,
            "gossip.verify_gossip": True,
            "resources.learners": 2,
            "resources.simulator_workers": 1,
            "resources.env_splits": 1,
            "resources.threads": 1,
        },
    ),
    "fast-cpu": Preset(
        "Atari without a GPU: 8 environments for each learner, one learner per core, at most 8",
        "a2c",
        {"environment.num_envs": 8, "resources.device": "cpu"},
        "Pong: 17.3 after 3,000,000 agent steps, 16.5 minutes on 2 cores (one seed)",
    ),
    "one-gpu": Preset(
        "Atari on the first GPU: 4 learners of 64 environments share it",
        "a2c",
        {
            "environment.num_envs": 64,
            "resources.learners": 4,
            "resources.device": "cuda:0",
        },
    ),
    "atari-a2c-paper": Preset(
        "GALA (Assran et al. 2019) and its published code: 4 learners in a ring; but RMSprop's "
        "mean square starts from 1",
        "a2c",
        {
            ".total_steps": 40_000_000,
            "environment.num_envs": 16,
            "algorithm.num_steps": 5,
            "algorithm.learning_rate": 1.4e-3,
            "model.network": "gala",
            "gossip.topology": "ring",
            "resources.learners": 4,
        },
    ),
    "a2c-atari": Preset(
        "Stable-Baselines3 2.x, RL Baselines3 Zoo: a2c.yml, atari",
        "a2c",
        {
            "environment.num_envs": 16,
            "algorithm.num_steps": 5,
            "algorithm.learning_rate": 7e-4,
            "algorithm.vf_coef": 0.25,
            "algorithm.rmsprop_form": "tf",
            "model.network": "nature",
        },
    ),
    "a2c-classic": Preset(
        "Stable-Baselines3 2.x, RL Baselines3 Zoo: a2c.yml, CartPole-v1",
        "a2c",
        {
            "environment.num_envs": 8,
            "algorithm.learning_rate": 7e-4,
            "algorithm.ent_coef": 0.0,
            "algorithm.rmsprop_initial": 0.0,
        },
        "CartPole-v1: 500 after 200,000 agent steps (seeds 1 and 2, 1 learner)",
    ),
    "ppo-atari": Preset(
        "CleanRL: ppo_atari.py",
        "ppo",
        {"environment.num_envs": 8, "model.network": "nature"},
    ),
    "ppo-classic": Preset(
        "CleanRL: ppo.py",
        "ppo",
        {"environment.num_envs": 4, "algorithm.clip_coef": 0.2},
    ),
    "ppo-cartpole": Preset(
        "RL Baselines3 Zoo: ppo.yml, CartPole-v1",
        "ppo",
        PPO_CARTPOLE,
        "CartPole-v1: 500 after 100,000 agent steps (seeds 1 and 2, 1 learner)",
    ),
    "ppo-pendulum": Preset(
        "RL Baselines3 Zoo: ppo.yml, Pendulum-v1, without state-dependent exploration",
        "ppo",
        {
            "environment.env_id": "Pendulum-v1",
            "environment.num_envs": 4,
            "algorithm.learning_rate": 1e-3,
            "algorithm.lr_schedule": "constant",
            "algorithm.num_steps": 1024,
            "algorithm.num_minibatches": 64,
            "algorithm.update_epochs": 10,
            "algorithm.gamma": 0.9,
            "algorithm.gae_lambda": 0.95,
            "algorithm.clip_coef": 0.2,
            "algorithm.clip_vloss": False,
            "algorithm.vf_loss": "full",
            "algorithm.ent_coef": 0.0,
        },
        "Pendulum-v1: -205 and -179 after 200,000 agent steps (seeds 1 and 2, 2 learners)",
    ),
    "ppo-acrobot": Preset(
        "RL Baselines3 Zoo: ppo.yml, Acrobot-v1, without normalisation",
        "ppo",
        {
            "environment.env_id": "Acrobot-v1",
            "environment.num_envs": 16,
            "algorithm.learning_rate": 3e-4,
            "algorithm.lr_schedule": "constant",
            "algorithm.num_steps": 256,
            "algorithm.num_minibatches": 64,
            "algorithm.update_epochs": 4,
            "algorithm.gae_lambda": 0.94,
            "algorithm.clip_coef": 0.2,
            "algorithm.clip_vloss": False,
            "algorithm.vf_loss": "full",
            "algorithm.ent_coef": 0.0,
        },
        "Acrobot-v1: -87 and -85 after 200,000 agent steps (seeds 1 and 2, 1 learner)",
    ),
    "pqn-atari": Preset(
        "CleanRL: pqn_atari_envpool.py",
        "pqn",
        {"environment.num_envs": 8, "model.network": "nature-layernorm"},
    ),
    "pqn-classic": Preset(
        "CleanRL: pqn.py",
        "pqn",
        {
            "environment.num_envs": 4,
            "algorithm.end_e": 0.05,
            "algorithm.exploration_fraction": 0.5,
            "model.network": "mlp-layernorm",
        },
    ),
    "pqn-minatar": Preset(
        "PureJaxQL: pqn_minatar.yaml",
        "pqn",
        {
            "environment.num_envs": 128,
            "algorithm.learning_rate": 5e-4,
            "algorithm.num_steps": 32,
            "algorithm.num_minibatches": 32,
            "algorithm.update_epochs": 2,
            "algorithm.q_lambda": 0.65,
            "algorithm.end_e": 0.05,
            "algorithm.exploration_fraction": 0.1,
            "model.network": "minatar-layernorm",
        },
        "MinAtar's Breakout 7.0 and 7.8, Asterix 2.4 and 4.3 after 1 million agent steps, by two "
        "learners with half of the environments and minibatches each (seeds 1 and 2)",
    ),
    "pqn-cartpole": Preset(
        "found here: 200,000 agent steps do for CartPole-v1",
        "pqn",
        {
            "environment.env_id": "CartPole-v1",
            "environment.num_envs": 32,
            "algorithm.learning_rate": 1e-3,
            "algorithm.num_steps": 16,
            "algorithm.q_lambda": 0.95,
            "algorithm.end_e": 0.05,
            "algorithm.exploration_fraction": 0.2,
            "model.network": "mlp-layernorm",
        },
        "CartPole-v1: 487 and 500 after 200,000 agent steps (seeds 1 and 2, 1 learner)",
    ),
}
"""By name. A line here is all that a preset takes."""


def preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        UserError: there is none of that name.
    """
    if name not in PRESETS:
        raise UserError(
            f"--preset {name}: expected one of {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}"
        )
    return PRESETS[name]


def preset_values(name: str) -> Values:
    """Return the settings of a preset, its algorithm among them.

    Raises:
        UserError: there is none of that name.
    """
    known = preset(name)
    pairs = (key.split(".") for key in known.settings)
    values = {(section, leaf): known.settings[f"{section}.{leaf}"] for section, leaf in pairs}
    return {("algorithm", "algorithm"): known.algorithm, **values}
