"""Bare parts of training, on every core at once and with nothing between them.

    python -m galamp.tools.bench.parts --env-id ID --num-envs B --network NAME --seconds S

    on CPUs      every core: emulate, act, learn
    on one GPU   a core per learner: act, learn, gossip on the GPU; every other core: emulate

Prints one line of JSON: for every core the milliseconds per agent step of every part, the median of
short blocks that take turns, so that a drift over time affects all parts alike. Work on a GPU
includes the copies to and from it, and all waits for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import TypeVar

import numpy as np
import torch

from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.base import Rollout
from galamp.algorithms.forward import Place
from galamp.core.config import EnvironmentConfig
from galamp.environments import make_environment
from galamp.environments.base import EnvironmentSpec
from galamp.memory.status import Phase
from galamp.supervision.devices import CPU
from galamp.tools.bench.synthetic import synthetic_learners, take_turns
from galamp.workers.building import build_algorithm

BLOCK_S = 0.25
EMULATE, ACT, LEARN = PARTS = ("emulate", "act", "learn")
GOSSIP = "gossip"
ON_GPU = {ACT: Phase.INFER, LEARN: Phase.UPDATE, GOSSIP: Phase.GOSSIP}
"""Parts of a learner on a GPU, and their phase in a run."""
ALL = slice(None)
T = TypeVar("T")


class Emulator:
    """The environments of one learner, in this process."""

    def __init__(self, env_id: str, num_envs: int) -> None:
        self.envs = num_envs
        seeds = list(range(num_envs))
        self.environment = make_environment(EnvironmentConfig(env_id=env_id), seeds, threads=1)
        self.spec = self.environment.spec
        self.first = self.environment.reset()
        self._random = np.random.default_rng(0)

    def step(self) -> float:
        """Play one step with random actions; returns the seconds that it took."""
        actions = self.spec.actions.draw(self._random, self.envs)
        start_s = time.perf_counter()
        self.environment.step(actions)
        return time.perf_counter() - start_s


class Parts:
    """One learner of B environments taken apart, on a CPU."""

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        network: str,
        precision: str = "float32",
        *,
        cached: bool = True,
    ) -> None:
        """Make them; if not `cached`, the update computes the forward pass again, by autograd."""
        config = A2CConfig(learning_rate=7e-4, precision=precision)
        self.envs, self.steps = num_envs, config.num_steps
        self.emulator = Emulator(env_id, num_envs)
        spec = self.emulator.spec
        self.algorithm = build_algorithm(
            config, network, spec, device=CPU, model_seed=0, sampling_seed=0
        )
        if cached:
            self.algorithm.prepare(self.steps, num_envs)
        first = torch.from_numpy(self.emulator.first)
        self.observations = first.repeat(self.steps + 1, *[1] * first.dim())
        self.observations = self.observations.view(self.steps + 1, *first.shape)
        self.first = torch.zeros(self.steps + 1, num_envs, dtype=torch.bool)
        self.spent_s = dict.fromkeys(PARTS, 0.0)

    def emulate(self) -> None:
        """Play one rollout with random actions."""
        self.spent_s[EMULATE] += sum(self.emulator.step() for _ in range(self.steps))

    def train(self) -> None:
        """Act on one rollout of observations, and learn from it."""
        taken = [self._timed(ACT, partial(self._act, step)) for step in range(self.steps)]
        shape = (self.steps, self.envs)
        nothing = torch.zeros(shape, dtype=torch.bool)
        rollout = Rollout(
            observations=self.observations,
            actions=torch.stack(taken),
            rewards=torch.zeros(shape),
            terminated=nothing,
            truncated=nothing,
            valid=~nothing,
            first=self.first,
        )
        self._timed(LEARN, partial(self.algorithm.update, rollout))

    def _act(self, step: int) -> torch.Tensor:
        return self.algorithm.act(
            self.observations[step], self.first[step], Place(step, ALL)
        ).actions

    def _timed(self, part: str, work: Callable[[], T]) -> T:
        start_s = time.perf_counter()
        result = work()
        self.spent_s[part] += time.perf_counter() - start_s
        return result


def block(parts: Parts) -> dict[str, float]:
    """Return milliseconds per agent step of every part, over a moment of each."""
    return _block(parts, parts.emulate, EMULATE) | train_block(parts)


def train_block(parts: Parts) -> dict[str, float]:
    """Return milliseconds per agent step of acting and learning, over a moment."""
    return _block(parts, parts.train, ACT, LEARN)


def _block(parts: Parts, work: Callable[[], None], *names: str) -> dict[str, float]:
    parts.spent_s = dict.fromkeys(PARTS, 0.0)
    end_s, done = time.perf_counter() + BLOCK_S, 0
    while not done or time.perf_counter() < end_s:
        work()
        done += parts.steps * parts.envs
    return {name: parts.spent_s[name] / done * 1e3 for name in names}


class DeviceParts:
    """Parts of one learner on a device; a second learner, to gossip with, takes turns."""

    def __init__(
        self,
        environment: EnvironmentSpec,
        *,
        learners: int,
        num_envs: int,
        network: str,
        device: str,
        precision: str = "float32",
    ) -> None:
        """Create the learner, and the second if the run has several `learners`."""
        self._all = synthetic_learners(
            environment,
            learners=min(2, learners),
            num_envs=num_envs,
            network=network,
            device=device,
            precision=precision,
        )

    def block(self) -> dict[str, float]:
        """Return milliseconds per agent step of every part, over a moment."""
        first = self._all[0]
        before, end_s, turns = first.status.phase_s(), time.perf_counter() + BLOCK_S, 0
        while not turns or time.perf_counter() < end_s:
            take_turns(self._all, 1)
            turns += 1
        spent_s = first.status.phase_s() - before
        steps = turns * first.steps_per_turn
        return {name: float(spent_s[phase]) / steps * 1e3 for name, phase in ON_GPU.items()}


def emulator_block(emulator: Emulator) -> dict[str, float]:
    """Return milliseconds per agent step of emulation, over a moment."""
    end_s, spent_s, steps = time.perf_counter() + BLOCK_S, 0.0, 0
    while time.perf_counter() < end_s:
        spent_s += emulator.step()
        steps += emulator.envs
    return {EMULATE: spent_s / steps * 1e3}


def on_one_core(args: argparse.Namespace) -> dict[str, float]:
    """Measure on core `args.core`."""
    os.sched_setaffinity(0, [args.core])
    torch.set_num_threads(1)
    measured = _work_of(args)
    measured()
    print("ready", flush=True)
    sys.stdin.readline()
    end_s = time.perf_counter() + args.seconds
    blocks: list[dict[str, float]] = []
    while not blocks or time.perf_counter() < end_s:
        blocks.append(measured())
    return {name: median(each[name] for each in blocks) for name in blocks[0]}


def _work_of(args: argparse.Namespace) -> Callable[[], dict[str, float]]:
    """Return a function that measures one block of this core's parts."""
    if args.part is None:
        return partial(
            block,
            Parts(args.env_id, args.num_envs, args.network, args.precision),
        )
    if args.part == EMULATE:
        return partial(emulator_block, Emulator(args.env_id, args.num_envs))
    parts = DeviceParts(
        Emulator(args.env_id, 1).spec,
        learners=args.learners,
        num_envs=args.num_envs,
        network=args.network,
        device=args.device,
        precision=args.precision,
    )
    return parts.block


def shares(cores: list[int], args: argparse.Namespace) -> Iterator[tuple[int, list[object]]]:
    """Yield each core and the arguments of its work; on a GPU, learners come first."""
    if args.device == CPU:
        yield from ((core, []) for core in cores)
        return
    learners = min(args.learners, len(cores))
    emulators = cores[learners:] or cores[-1:]
    envs = max(1, args.num_envs * learners // len(emulators))
    for core in cores[:learners]:
        yield core, ["--part", LEARN]
    for core in emulators:
        yield core, ["--part", EMULATE, "--num-envs", envs]


def on_all_cores(args: argparse.Namespace) -> list[dict[str, float]]:
    """Measure on every core, by a process of its own on each; all start once all are ready."""
    command = [sys.executable, "-m", "galamp.tools.bench.parts", *sys.argv[1:]]
    children = [
        subprocess.Popen(
            [*command, "--core", str(core), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for core, words in shares(sorted(os.sched_getaffinity(0)), args)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()  # it is ready; empty where it has failed
    for child in children:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write("go\n")
            child.stdin.flush()
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
    parser.add_argument("--device", default=CPU)
    parser.add_argument("--learners", type=int, default=1)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--core", type=int)
    parser.add_argument("--part", choices=(EMULATE, LEARN))
    args = parser.parse_args()
    found = on_all_cores(args) if args.core is None else on_one_core(args)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
