"""The bare parts of training, on every core at once and with nothing between them.

    python -m galamp.bench.parts --env-id ID --num-envs B --network NAME --seconds S

Prints one line of JSON: for every core the milliseconds per agent step of every part, the median of
short blocks that take turns, so that what drifts with time touches all parts alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TypeVar

import numpy as np
import torch

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.tape import Place
from galamp.config import AlgorithmConfig, EnvironmentConfig
from galamp.environments import make_environment
from galamp.models import build_model

BLOCK_S = 0.25
EMULATE, ACT, LEARN = PARTS = ("emulate", "act", "learn")
ALL = slice(None)
T = TypeVar("T")


class Parts:
    """One learner of B simulators taken apart."""

    def __init__(
        self, env_id: str, num_envs: int, network: str, precision: str = "float32"
    ) -> None:
        config = AlgorithmConfig(learning_rate=7e-4, precision=precision)
        self.lanes, self.steps = num_envs, config.num_steps
        seeds = list(range(num_envs))
        self.environment = make_environment(EnvironmentConfig(env_id=env_id), seeds, threads=1)
        spec = self.environment.spec
        self.actions = spec.num_actions
        model = build_model(
            network, spec.observation_shape, spec.observation_dtype, spec.num_actions, seed=0
        )
        self.algorithm: Algorithm = make_algorithm(config, model, device="cpu", seed=0)
        self.algorithm.expect(self.steps, num_envs)
        first = torch.from_numpy(self.environment.reset())
        self.observations = first.repeat(self.steps + 1, *[1] * first.dim())
        self.observations = self.observations.view(self.steps + 1, *first.shape)
        self.random = np.random.default_rng(0)
        self.spent_s = dict.fromkeys(PARTS, 0.0)

    def emulate(self) -> None:
        """Play one rollout with random actions."""
        for _ in range(self.steps):
            actions = self.random.integers(0, self.actions, self.lanes)
            self._timed(EMULATE, partial(self.environment.step, actions))

    def train(self) -> None:
        """Act on one rollout of observations, and learn from it."""
        taken = [self._timed(ACT, partial(self._act, step)) for step in range(self.steps)]
        shape = (self.steps, self.lanes)
        nothing = torch.zeros(shape, dtype=torch.bool)
        rollout = Rollout(
            observations=self.observations,
            actions=torch.stack(taken),
            rewards=torch.zeros(shape),
            terminated=nothing,
            truncated=nothing,
            valid=~nothing,
        )
        self._timed(LEARN, partial(self.algorithm.update, rollout))

    def _act(self, step: int) -> torch.Tensor:
        return self.algorithm.act(self.observations[step], Place(step, ALL))

    def _timed(self, part: str, work: Callable[[], T]) -> T:
        start_s = time.perf_counter()
        result = work()
        self.spent_s[part] += time.perf_counter() - start_s
        return result


def block(parts: Parts) -> dict[str, float]:
    """Return milliseconds per agent step of every part, over a moment of each."""
    result: dict[str, float] = {}
    for work, names in ((parts.emulate, (EMULATE,)), (parts.train, (ACT, LEARN))):
        parts.spent_s = dict.fromkeys(PARTS, 0.0)
        end_s, done = time.perf_counter() + BLOCK_S, 0
        while time.perf_counter() < end_s:
            work()
            done += parts.steps * parts.lanes
        result |= {name: parts.spent_s[name] / done * 1e3 for name in names}
    return result


def on_one_core(options: argparse.Namespace) -> dict[str, float]:
    """Measure on core `options.core`."""
    os.sched_setaffinity(0, [options.core])
    torch.set_num_threads(1)
    parts = Parts(options.env_id, options.num_envs, options.network, options.precision)
    block(parts)
    end_s = time.perf_counter() + options.seconds
    blocks: list[dict[str, float]] = []
    while not blocks or time.perf_counter() < end_s:
        blocks.append(block(parts))
    return {name: median(each[name] for each in blocks) for name in PARTS}


def on_all_cores() -> list[dict[str, float]]:
    """Measure on every core, by a process of its own on each."""
    command = [sys.executable, "-m", "galamp.bench.parts", *sys.argv[1:]]
    children = [
        subprocess.Popen([*command, "--core", str(core)], stdout=subprocess.PIPE, text=True)
        for core in sorted(os.sched_getaffinity(0))
    ]
    found = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("a core's parts could not be measured")
    return [json.loads(each) for each in found]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env-id", required=True)
    parser.add_argument("--num-envs", type=int, required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--core", type=int)
    options = parser.parse_args()
    found = on_all_cores() if options.core is None else on_one_core(options)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
