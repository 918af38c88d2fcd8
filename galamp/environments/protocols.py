"""Evaluation protocols of Atari: the emulator's settings, by name.

Used by every process that builds an Atari environment. The protocol is printed and stored with the
results, because scores of different protocols cannot be compared. To add one, add an entry to
`PROTOCOLS`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError, did_you_mean

IMAGE, RAM = "image", "ram"
"""Values of --obs-type: frames of 84 x 84 pixels, or the console's memory."""


@dataclass(frozen=True)
class AtariProtocol:
    """Protocol of an Atari game: how it is played, and what the agent is trained on.

    Attributes:
        name: entry of `PROTOCOLS` that the other fields are based on.
        sticky_actions: probability that the emulator repeats the last action, per emulator frame.
        noop_max: an episode begins with fewer no-ops than this, each of one emulator frame. ale-py
            draws a number from 0 to `noop_max - 1`, all equally likely; 0 and 1 play none. ale-py
            cannot draw the usual "up to 30" (1 to 30).
        fire_reset: in games with the action FIRE, FIRE is pressed for one frame before the no-ops,
            and replaces one no-op, if any was drawn. Without it, many games begin only when the
            agent presses FIRE: in Breakout there is no ball until then. It is not pressed after a
            lost life, as it is by `FireResetEnv` around `EpisodicLifeEnv` in OpenAI Baselines,
            Stable-Baselines3 and CleanRL.
        frame_skip: emulator frames per agent step.
        frame_stack: frames in one observation.
        max_frames: emulator frames after which an episode is truncated, counted from its first
            observation: FIRE and no-ops at its start do not count.
        full_action_space: all 18 actions instead of those that the game uses.
        life_loss_ends: a lost life ends the return for training; the game continues.
        clip_rewards: the learner trains on rewards clipped to [-1, 1].
        mode: of the game; None: its own.
        difficulty: of the game; None: its own.
        obs_type: what is seen, `IMAGE` or `RAM`.
    """

    name: str
    sticky_actions: float
    noop_max: int
    fire_reset: bool
    frame_skip: int
    frame_stack: int
    max_frames: int
    full_action_space: bool
    life_loss_ends: bool
    clip_rewards: bool
    mode: int | None = None
    difficulty: int | None = None
    obs_type: str = IMAGE

    @property
    def is_plain(self) -> bool:
        """Whether ale-py's vector environment can play it: frames of the game's own mode."""
        return (self.mode, self.difficulty, self.obs_type) == (None, None, IMAGE)

    def describe(self) -> str:
        """Return the protocol in one line, with a list of settings that differ from its entry."""
        changed = [n for n in SETTINGS if getattr(self, n) != getattr(PROTOCOLS[self.name], n)]
        name = f"{self.name} (changed: {', '.join(changed)})" if changed else self.name
        parts = (
            f"sticky {self.sticky_actions:g}",
            f"fewer than {self.noop_max} no-ops" if self.noop_max else "no no-ops",
            "FIRE at reset" if self.fire_reset else "no FIRE at reset",
            f"frame skip {self.frame_skip}",
            f"stack {self.frame_stack}",
            "life loss ends" if self.life_loss_ends else "life loss ignored",
            "rewards clipped" if self.clip_rewards else "rewards not clipped",
            f"{self.max_frames} frames",
            "all 18 actions" if self.full_action_space else "minimal actions",
            *([f"mode {self.mode}"] if self.mode is not None else []),
            *([f"difficulty {self.difficulty}"] if self.difficulty is not None else []),
            *(["RAM"] if self.obs_type == RAM else []),
        )
        return f"{name}: {', '.join(parts)}"


SETTINGS = tuple(f.name for f in dataclasses.fields(AtariProtocol) if f.name != "name")
"""The protocol's settings, named as the `EnvironmentConfig` fields that override them."""

FOR_ALL = ("clip_rewards", "frame_skip", "frame_stack")
"""Settings of Atari's protocols that any environment can have."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Mnih et al. 2015, Human-level control through deep reinforcement learning.
        AtariProtocol(
            name="classic",
            sticky_actions=0.0,
            noop_max=30,
            fire_reset=True,  # of OpenAI Baselines, there after lost lives, too; not in the paper
            frame_skip=4,
            frame_stack=4,
            max_frames=108_000,  # 30 minutes at 60 frames per second
            full_action_space=False,
            life_loss_ends=True,
            clip_rewards=True,
        ),
        # Machado et al. 2018, Revisiting the Arcade Learning Environment; frame skip and episode
        # length are those of the v5 environments (the paper: 5, and 18,000 frames).
        AtariProtocol(
            name="machado",
            sticky_actions=0.25,
            noop_max=0,
            fire_reset=False,
            frame_skip=4,
            frame_stack=4,
            max_frames=108_000,
            full_action_space=True,
            life_loss_ends=False,
            clip_rewards=True,
        ),
    )
}


def resolve(config: EnvironmentConfig) -> AtariProtocol:
    """Return the protocol that `config` names, with the config's overrides (not None) applied.

    Of the memory only one state is seen, unless `frame_stack` is given. `max_episode_steps`
    applies to any environment; here it can lower `max_frames`.

    Raises:
        UserError: the protocol does not exist.
    """
    if config.protocol not in PROTOCOLS:
        raise UserError(
            f"--protocol {config.protocol}: expected one of {', '.join(PROTOCOLS)}"
            f"{did_you_mean(config.protocol, PROTOCOLS)}"
        )
    overrides: dict[str, Any] = {name: getattr(config, name) for name in SETTINGS}
    given = {name: value for name, value in overrides.items() if value is not None}
    if config.obs_type == RAM:
        given.setdefault("frame_stack", 1)  # it holds what frames must be stacked for
    protocol = dataclasses.replace(PROTOCOLS[config.protocol], **given)
    steps = config.max_episode_steps
    if steps is not None and steps * protocol.frame_skip < protocol.max_frames:
        protocol = dataclasses.replace(protocol, max_frames=steps * protocol.frame_skip)
    return protocol


def refuse_atari_settings(env_id: str, config: EnvironmentConfig) -> None:
    """Raise UserError for a setting that would be silently ignored outside Atari.

    Some Atari settings are allowed everywhere: those `FOR_ALL`, and `life_loss_ends` False
    (evaluation sets it), which is true of any environment without lives.
    """
    given = [n for n in SETTINGS if n not in FOR_ALL and getattr(config, n) is not None]
    if config.life_loss_ends is False:
        given.remove("life_loss_ends")
    if config.protocol != EnvironmentConfig.protocol:
        given.append("protocol")
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        instead = "leave it out"
        if "max_frames" in given:
            instead += "; --max-episode-steps cuts episodes in any environment, by agent steps"
        raise UserError(f"{flags}: only for Atari games, and {env_id} is none: {instead}")
