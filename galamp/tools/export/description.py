"""Description of an export: what goes in, what comes out, and how an action follows from it.

    Agent, Verification --described--> JSON beside the file

Runs in `galamp export`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import galamp
from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions
from galamp.core.config import EnvironmentConfig
from galamp.core.disk import finite
from galamp.environments.names import ATARI
from galamp.environments.protocols import AtariProtocol, resolve
from galamp.tools.evaluation.agent import Agent
from galamp.tools.export.formats import INPUTS, OUTPUTS
from galamp.tools.export.verification import Verification

ATARI_FRAMES = "gray frames of 84 x 84, the newest last, as ale_py.vector_env.AtariVectorEnv gives"


def described(agent: Agent, format: str, file: str, verified: Verification) -> dict[str, Any]:
    """Return the description as JSON values."""
    known, spec, environment = agent.identity, agent.spec, agent.environment
    atari = known.env_id.startswith(ATARI)
    size = agent.module.state_size
    note = ATARI_FRAMES if atari else spec.observation_note or "as the environment gives them"
    outputs: dict[str, Any] = {
        OUTPUTS[0]: ["batch", agent.policy.distribution.num_inputs],
        OUTPUTS[1]: ["batch"],
    }
    if size:
        outputs[OUTPUTS[2]] = ["batch", size]
    return {
        "format": format,
        "file": file,
        "galamp": galamp.__version__,
        "agent": repr(agent),
        "checkpoint": agent.path.name,
        "learner": agent.learner,
        "agent_steps": agent.agent_steps,
        "score": agent.score,
        "algorithm": known.algorithm,
        "network": known.network,
        "env_id": known.env_id,
        "protocol": spec.protocol,
        "preprocessing": _given(resolve(environment) if atari else environment),
        INPUTS[0]: {
            "shape": ["batch", *spec.observation_shape],
            "dtype": spec.observation_dtype,
            "made_of": note,
            "scale": spec.scale,
            "scaled": "inside: give observations as they are",
            "normalised": "inside" if agent.policy.normalises else "no",
        },
        INPUTS[1]: {
            "shape": ["batch", size],
            "dtype": "float32",
            "meaning": "zero at the first observation of an episode, then the last next_state",
        }
        if size
        else None,
        "outputs": outputs,
        "actions": {
            **known.actions.to_dict(),
            "meanings": list(spec.action_meanings),
            "from_logits": "argmax, plus start: the logits are values of actions"
            if agent.policy.takes_the_best
            else from_logits(known.actions),
        },
        "verified": verified._asdict(),
    }


def _given(settings: AtariProtocol | EnvironmentConfig) -> dict[str, Any]:
    """Return the settings that are given, as JSON values."""
    values = finite(dataclasses.asdict(settings))
    return {name: value for name, value in values.items() if value is not None}


def from_logits(actions: ActionSpec) -> str:
    """Return in words how the environment's action follows from the network's outputs."""
    match actions:
        case DiscreteActions():
            return "argmax, or a draw from the softmax; plus start"
        case MultiDiscreteActions():
            return "split by nvec, of each part the argmax, or a draw from its softmax; plus start"
        case MultiBinaryActions():
            return "1 where a logit is above 0, or with the probability of its sigmoid"
        case BoxActions():
            end = "clipped to low and high"
            if any(actions.squashed):
                end = "low + (tanh(x) + 1) / 2 * (high - low)"
            return f"the first half are means, the second log standard deviations; then {end}"
    raise AssertionError(actions)
