"""Whether A2C learns on a GPU what it learns on the CPU: the same updates on fixed rollouts.

    python -m galamp.bench.gpu.parity --device cuda:0 --network nature --updates 100
        rollouts, parameters drawn on the CPU --> A2C on the CPU           --> gradient, parameters
                                              --> A2C on the GPU, TF32 off --> gradient, parameters
                                              --> the same, TF32 on        --> gradient, parameters

The first gradient is where the parameters are still the same, so nothing but rounding may move it:
||g - h|| / ||h||. After all updates the parameters are compared, as a share of the way that they
have gone, ||x - y|| / ||y - start||; a share of it is lost to rounding by each update, however it
is computed. TF32 rounds the factors of products to 10 bits of mantissa, where float32 has 23.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm, Rollout
from galamp.bench.gpu.children import ask, run, tell
from galamp.bench.gpu.steps import Deadline, Job, Report
from galamp.config import AlgorithmConfig
from galamp.models import build_model
from galamp.plan import CPU

UPDATES = 100
STEPS, LANES, ACTIONS = 5, 16, 4
OBSERVATION = (4, 84, 84)
SEED = 1


class Most(NamedTuple):
    """Shares above which something else than rounding is at work."""

    gradient: float
    way: float


MOST_APART = {"float32": Most(1e-4, 2e-2), "tf32": Most(6e-2, 1e-1)}
"""As tried on CPUs, with factors rounded as TF32 rounds them for the second: another order of sums
moves the first gradient by 2e-6, TF32 by 2e-2; one reward of 80 that is 0.1 too large by 8e-3, a
gamma of 0.98 by 2e-2, observations that are one row late by 0.5. Of the way of 100 updates the same
are 4e-3 and 1e-2, and for the last two 3e-2 and 0.3."""


class Learned(NamedTuple):
    """What came of all updates.

    Attributes:
        start: [P] float32, the parameters at first.
        gradient: [P] float32, the first update's, clipped.
        end: [P] float32, the parameters at last.
        metrics: of the last update.
    """

    start: Tensor
    gradient: Tensor
    end: Tensor
    metrics: dict[str, float]


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Learn the same on both devices, and compare."""
    words = ("--device", job.device, "--network", job.workload.network, "--updates", UPDATES)
    values = ask("parity", words, report, deadline)
    report.say(*lines(values))
    report.judge(problems(values))


def lines(values: dict[str, Any]) -> Iterator[str]:
    """Yield how far apart the two devices are."""
    for name, most in MOST_APART.items():
        found = values[name]
        yield (
            f"{name:8} the first gradient is {found['gradient']:.1e} apart (at most "
            f"{most.gradient:.0e}); after {values['updates']} updates, {found['way']:.1e} of the "
            f"way gone (at most {most.way:.0e}), the loss {found['loss']:.1e}"
        )


def problems(values: dict[str, Any]) -> Iterator[str]:
    """Yield where they are farther apart than rounding explains; NaN is never near."""
    for name, most in MOST_APART.items():
        for what, limit in most._asdict().items():
            if not values[name][what] <= limit:
                yield f"{name}: the {what} is {values[name][what]:.1e} apart, at most {limit:.0e}"


def main() -> None:
    """Learn on all devices, and tell how far apart the results are."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--updates", type=int, required=True)
    options = parser.parse_args()
    rollouts = [rollout(seed) for seed in range(options.updates)]
    tell(updates=options.updates, network=options.network)
    expected = learned(options.network, CPU, rollouts)
    tell(moved=distance(expected.start, expected.end))
    for name in MOST_APART:
        found = learned(options.network, options.device, rollouts, tf32=name == "tf32")
        tell(**{name: apart(found, expected)})


def rollout(seed: int) -> Rollout:
    """Return a rollout on the CPU, drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (STEPS + 1, LANES, *OBSERVATION)
    flags = [torch.rand(STEPS, LANES, generator=generator) for _ in range(3)]
    return Rollout(
        observations=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        actions=torch.randint(0, ACTIONS, (STEPS, LANES), generator=generator),
        rewards=torch.randn(STEPS, LANES, generator=generator).clamp(-1.0, 1.0),
        terminated=flags[0] < 0.05,
        truncated=flags[1] < 0.01,
        valid=flags[2] < 0.99,
    )


def learned(
    network: str, device: str, rollouts: Sequence[Rollout], *, tf32: bool = False
) -> Learned:
    """Return what A2C makes of the rollouts on `device`; all else is the same for all devices."""
    model = build_model(network, OBSERVATION, "uint8", ACTIONS, seed=SEED)
    config = AlgorithmConfig(learning_rate=7e-4)
    algorithm: Algorithm = make_algorithm(config, model, device=device, seed=SEED)
    allow_tf32(tf32)  # last, for whatever the algorithm itself may have chosen
    start = algorithm.parameters.data.to(CPU, copy=True)
    gradient, metrics = torch.zeros_like(start), dict[str, float]()
    for number, one in enumerate(rollouts):
        there = {name: value.to(device) for name, value in vars(one).items()}
        metrics = algorithm.update(Rollout(**there))
        if number == 0:
            gradient = algorithm.parameters.grad.to(CPU, copy=True)
    return Learned(start, gradient, algorithm.parameters.data.to(CPU, copy=True), metrics)


def allow_tf32(allowed: bool) -> None:
    """Have float32 products on GPUs rounded to TF32, or not."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def apart(found: Learned, expected: Learned) -> dict[str, float]:
    """Return how far apart two results are: the first gradient, the way gone, and the loss."""
    losses = [one.metrics["policy_loss"] + one.metrics["value_loss"] for one in (found, expected)]
    length, way = float(expected.gradient.norm()), distance(expected.start, expected.end)
    return {
        "gradient": distance(found.gradient, expected.gradient) / length if length else math.inf,
        "way": distance(found.end, expected.end) / way if way else math.inf,
        "loss": abs(losses[0] - losses[1]),
    }


def distance(x: Tensor, y: Tensor) -> float:
    """Return the L2 norm of x - y, both [P]."""
    return float(torch.linalg.vector_norm((x - y).double()))


if __name__ == "__main__":
    run(main)
