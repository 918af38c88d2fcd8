"""Games step by step, with all that is shown of them: frames, score, value, probabilities.

    FilmedEnvironment --observations--> decide --Decision--> FilmedEnvironment --> Moment, ...

Runs in `galamp record` and `galamp play`. Who decides is the caller's: a trained agent (`decided`),
or a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galamp.core.action_spec import ActionSpec, DiscreteActions
from galamp.environments.failures import failures_reported
from galamp.environments.screens import FilmedEnvironment, Frame
from galamp.tools.evaluation.agent import Agent

MAX_NUMBERS = 8
"""Numbers of an action that are shown."""


@dataclass(frozen=True)
class Decision:
    """An action, and why it was taken.

    Attributes:
        actions: `[1, ...]`, as `Environment.step` takes it.
        action: the action in words, such as `LEFT`.
        value: discounted return that the network expects, in the rewards of the training; None
            where no network decides.
        shares: of discrete actions, name -> probability; of a network of values, its value.
        are_values: whether `shares` are values of actions.
        taken: index of the action among `shares`.
    """

    actions: NDArray[Any]
    action: str = ""
    value: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    are_values: bool = False
    taken: int = -1


Decide = Callable[[NDArray[Any], bool], Decision]
"""Observations `[1, ...]`, and whether they are the first of an episode, to a decision."""


@dataclass(frozen=True)
class Moment:
    """What an agent step has shown.

    Attributes:
        frames: RGB, [H, W, 3] uint8 each; at least one.
        decision: what led to them; None for the first frame of an episode.
        score: true return of the episode so far.
        episode: number of the episode, from 1.
        step: agent steps of the episode so far.
        ended: whether the episode is over.
    """

    frames: list[Frame]
    decision: Decision | None
    score: float
    episode: int
    step: int
    ended: bool = False


class Tally:
    """What a game has come to.

    Attributes:
        scores: of all games so far; the last one may not be over.
        is_cut: whether it is not.
    """

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.is_cut = False

    def counted(self, game: Iterable[Moment]) -> Iterator[Moment]:
        """Yield all moments, and count each before."""
        for moment in game:
            del self.scores[moment.episode - 1 :]
            self.scores.append(moment.score)
            self.is_cut = not moment.ended
            yield moment


def moments(
    filmed: FilmedEnvironment, decide: Decide, episodes: int, max_steps: int
) -> Iterator[Moment]:
    """Play `episodes` whole games, `max_steps` agent steps at most.

    Raises:
        GalampError: the environment raised an error.
    """
    env_id = filmed.environment.spec.env_id
    with failures_reported(env_id):
        observations, frames = filmed.reset()
    score, step, episode, first = 0.0, 0, 1, True
    yield Moment(frames, None, score, episode, step)
    for taken in range(1, max_steps + 1):
        decision = decide(observations, first)
        with failures_reported(env_id):
            transition, frames = filmed.step(decision.actions)
        observations, first = transition.observations, False
        score, step = score + float(transition.rewards[0]), step + 1
        ended = bool(transition.terminated[0] or transition.truncated[0])
        yield Moment(frames, decision, score, episode, step, ended)
        if not ended:
            continue
        if episode == episodes or taken == max_steps:
            return
        with failures_reported(env_id):
            transition, frames = filmed.step(filmed.environment.spec.actions.zeros(1))
        observations, first = transition.observations, True
        score, step, episode = 0.0, 0, episode + 1
        yield Moment(frames, None, score, episode, step)


def paced(game: Iterable[Moment], share: float, *, merges: bool) -> Iterator[tuple[Frame, Moment]]:
    """Yield a share of the frames of a game, evenly, each with its moment; the last one always.

    Args:
        game: all moments.
        share: above 0, 1 at most.
        merges: whether a frame shows the maximum of those that are left out before it, too.
    """
    kept: tuple[Frame, Moment] | None = None
    group = 0
    pairs = ((frame, moment) for moment in game for frame in moment.frames)
    for number, (frame, moment) in enumerate(pairs):
        at = int(number * share + 1e-9)
        if kept is not None and at != group:
            yield kept
        elif kept is not None and merges:
            frame = np.maximum(kept[0], frame)
        kept, group = (frame, moment), at
    if kept is not None:
        yield kept


def decided(agent: Agent, meanings: tuple[str, ...], greedy: bool) -> Decide:
    """Return how a trained agent decides; `meanings` are the names of its discrete actions."""
    agent.reset()
    state: Any = None
    spec, are_values = agent.identity.actions, agent.policy.takes_the_best

    def decide(observations: NDArray[Any], first: bool) -> Decision:
        nonlocal state
        before = None if first else state
        outputs, value = agent.logits(observations, before), agent.value(observations, before)
        _, state = agent.predict(observations, before, deterministic=True)
        actions = agent.policy_actions(observations, greedy=greedy, first=first)
        shares = {}
        if isinstance(spec, DiscreteActions):
            numbers = outputs[0] if are_values else _softmax(outputs[0])
            shares = dict(zip(meanings, map(float, numbers), strict=True))
        taken = int(actions[0]) if isinstance(spec, DiscreteActions) else -1
        text = in_words(spec, meanings, actions)
        return Decision(actions, text, float(value[0]), shares, are_values, taken)

    return decide


def in_words(spec: ActionSpec, meanings: tuple[str, ...], actions: NDArray[Any]) -> str:
    """Return an action `[1, ...]` in words: its name, or its numbers."""
    if isinstance(spec, DiscreteActions):
        return meanings[int(actions[0])]
    numbers = np.ravel(spec.to_environment(actions)[0])
    more = " ..." if len(numbers) > MAX_NUMBERS else ""
    return " ".join(f"{number:.2g}" for number in numbers[:MAX_NUMBERS].tolist()) + more


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(np.asarray(logits, np.float64) - float(np.max(logits)))
    result: NDArray[np.float64] = powers / powers.sum()
    return result
