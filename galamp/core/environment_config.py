"""Settings of environments: which one, how it is made, and under which evaluation protocol."""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core import keywords
from galamp.core.settings import CLASS, option

CLIP, SQUASH = ACTION_BOUNDS = ("clip", "squash")
"""How a policy's unbounded actions are brought into the bounds of a Box."""

MAX_CHANNELS = 16
"""Channels of an image that a network takes, and so frames that can be stacked."""


@dataclass(frozen=True)
class EnvironmentConfig:
    """Which environment, and under which evaluation protocol."""

    env_id: str = option(
        "ALE/Breakout-v5",
        "environment: an Atari game, a Gymnasium id, package:EnvId-v0 for an id that this package "
        "registers, or package.module:factory",
    )
    env_kwargs: tuple[str, ...] = option(
        (),
        "keyword arguments for the environment or its factory; values as in JSON or TOML, or text",
        texts=keywords.canonical,
        metavar="KEY=VALUE",
    )
    wrapper: tuple[str, ...] = option(
        (),
        "wrap each environment in a class of yours or of Gymnasium's; give it once for each, the "
        "innermost first",
        texts=keywords.names,
        user_code=CLASS,
        metavar=CLASS,
    )
    vector: bool = option(
        False,
        "the environment steps many at once: a factory takes num_envs and returns a Gymnasium "
        "VectorEnv, an id is made by gymnasium.make_vec",
    )
    num_envs: int = option(16, "environments per learner", low=1, high=4096)
    protocol: str = option(
        "classic",
        "Atari protocol that the settings below start from",
        registry="galamp.environments.protocols:PROTOCOLS",
    )
    sticky_actions: float | None = option(
        None, "probability that the emulator repeats the last action", low=0.0, high=0.99
    )
    noop_max: int | None = option(
        None,
        "an episode begins with 0 to N-1 no-op frames, drawn uniformly (0, 1: none); they are not "
        "counted in its length",
        unit="frames",
        low=0,
        high=1000,
    )
    fire_reset: bool | None = option(
        None,
        "press FIRE for one frame at the start of an episode, in games that have it, in the place "
        "of one no-op; without, many games begin when the agent presses it",
    )
    frame_skip: int | None = option(
        None,
        "frames per agent step, in any environment: the action is repeated, rewards are summed "
        "(default: the protocol's; 1 where there is none)",
        unit="frames",
        low=1,
        high=60,
    )
    frame_stack: int | None = option(
        None,
        "observations that the agent sees at once, in any environment (default: the protocol's; 1 "
        "where there is none)",
        unit="frames",
        low=1,
        high=MAX_CHANNELS,
    )
    resize: str | None = option(
        None,
        "size of images in pixels, such as 84 or 96x128 (height x width), by OpenCV; not for Atari "
        "(default: as they are)",
    )
    grayscale: bool = option(False, "make colour images gray, by OpenCV; not for Atari")
    observation_reading: str = option(
        "space",
        "what scale and channels of observations go by: bounds and shape of their space, or their "
        "type, as in runs of older versions (bytes are divided by 255, nothing else is)",
        names=("space", "dtype"),
    )
    max_frames: int | None = option(
        None, "an episode is cut after so many emulator frames", unit="frames", low=1, high=10**9
    )
    max_episode_steps: int | None = option(
        None,
        "an episode is cut after so many agent steps, in any environment (default: the "
        "environment's own limit, if it has one)",
        unit="agent steps",
        low=1,
        high=10**9,
    )
    mode: int | None = option(
        None, "Atari: mode of the game (default: the game's own)", low=0, high=255
    )
    difficulty: int | None = option(
        None, "Atari: difficulty of the game (default: the game's own)", low=0, high=255
    )
    obs_type: str | None = option(
        None,
        "Atari: what the agent sees, frames (image) or the console's memory of 128 bytes (ram) "
        "(default: image)",
        names=("image", "ram"),
    )
    full_action_space: bool | None = option(None, "offer all 18 actions in every game")
    life_loss_ends: bool | None = option(None, "a lost life ends the return for training")
    clip_rewards: bool | None = option(
        None, "train on rewards clipped to [-1, 1]; scores are never clipped"
    )
    norm_obs: bool = option(
        False,
        "subtract the mean of vector observations and divide by their standard deviation, both of "
        "all learners' data so far; clipped to [-10, 10]",
    )
    norm_reward: bool = option(
        False,
        "train on rewards divided by the standard deviation of the discounted return, of all "
        "learners' data so far; clipped to [-10, 10]",
    )
    action_bounds: str = option(
        CLIP,
        "how the policy's unbounded numbers become actions within the bounds of a Box: clipped "
        "to them, as in CleanRL and Stable-Baselines3 (clip), or by tanh (squash); infinite "
        "bounds need neither",
        names=ACTION_BOUNDS,
    )
