"""Presets: published settings by name, which flags of the command line then change.

    --preset NAME --> Preset: algorithm and settings --> values below those of the command line

Data only. A preset is for one learner: of several, each has all of its environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from galamp.core.errors import UserError, did_you_mean

Values = dict[tuple[str, str], Any]
"""Settings by section and name."""


class Preset(NamedTuple):
    """Published settings: where they are from, and those that differ from the algorithm's own."""

    source: str
    algorithm: str
    settings: Mapping[str, Any]
    """By `section.name`; `.name` where there is no section."""


PRESETS = {
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
        {
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
        },
    ),
    "ppo-pendulum": Preset(
        "RL Baselines3 Zoo: ppo.yml, Pendulum-v1, without state-dependent exploration",
        "ppo",
        {
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
    ),
    "ppo-acrobot": Preset(
        "RL Baselines3 Zoo: ppo.yml, Acrobot-v1, without normalisation",
        "ppo",
        {
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
    "pqn-cartpole": Preset(
        "found here: 200,000 agent steps do for CartPole-v1",
        "pqn",
        {
            "environment.num_envs": 32,
            "algorithm.learning_rate": 1e-3,
            "algorithm.num_steps": 16,
            "algorithm.q_lambda": 0.95,
            "algorithm.end_e": 0.05,
            "algorithm.exploration_fraction": 0.2,
            "model.network": "mlp-layernorm",
        },
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
