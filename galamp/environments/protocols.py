"""The evaluation protocols of Atari: what is told to the emulator, by name.

Read by every process that builds an Atari environment, and printed and stored with the results,
because scores of different protocols cannot be compared. A new one is an entry in `PROTOCOLS`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError, did_you_mean


@dataclass(frozen=True)
class AtariProtocol:
    """How a game is played, and what of it the agent is trained on.

    Attributes:
        name: the entry of `PROTOCOLS` that the other fields started from.
        sticky_actions: probability that the emulator repeats the last action, per emulator frame.
        noop_max: an episode begins with fewer no-ops than this, each of one emulator frame. ale-py
            draws a number from 0 to `noop_max - 1`, each as likely; 0 plays none, as does 1. The
            usual "up to 30" (1 to 30) is not to be had from it.
        fire_reset: FIRE is pressed for one frame before the no-ops, in games of whose actions it is
            one, and takes the place of a no-op, where one was drawn. Without it, many games begin
            only when the agent presses FIRE: in Breakout there is no ball until then.
        frame_skip: emulator frames per agent step.
        frame_stack: frames in one observation.
        max_frames: an episode is truncated after so many emulator frames, counted from its first
            observation: FIRE and no-ops at its start are not among them.
        full_action_space: all 18 actions instead of those that the game uses.
        life_loss_ends: a lost life ends the return for training; the game goes on.
        clip_rewards: the learner trains on rewards clipped to [-1, 1].
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

    def describe(self) -> str:
        """Return the protocol in one line; settings that differ from the named entry are listed."""
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
        )
        return f"{name}: {', '.join(parts)}"


SETTINGS = tuple(f.name for f in dataclasses.fields(AtariProtocol) if f.name != "name")
"""The protocol's settings, named as the `EnvironmentConfig` fields that override them."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Mnih et al. 2015, Human-level control through deep reinforcement learning.
        AtariProtocol(
            name="classic",
            sticky_actions=0.0,
            noop_max=30,
            fire_reset=True,  # as in the wrappers of OpenAI Baselines; the paper has nothing of it
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
    """Return the protocol that `config` names, with its overrides (all that is not None) applied.

    `max_episode_steps` counts for any environment; here it comes to a lower `max_frames`.

    Raises:
        UserError: no protocol has that name.
    """
    if config.protocol not in PROTOCOLS:
        raise UserError(
            f"--protocol {config.protocol}: expected one of {', '.join(PROTOCOLS)}"
            f"{did_you_mean(config.protocol, PROTOCOLS)}"
        )
    overrides: dict[str, Any] = {name: getattr(config, name) for name in SETTINGS}
    given = {name: value for name, value in overrides.items() if value is not None}
    protocol = dataclasses.replace(PROTOCOLS[config.protocol], **given)
    steps = config.max_episode_steps
    if steps is not None and steps * protocol.frame_skip < protocol.max_frames:
        protocol = dataclasses.replace(protocol, max_frames=steps * protocol.frame_skip)
    return protocol
