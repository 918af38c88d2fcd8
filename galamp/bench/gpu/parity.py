"""Whether A2C learns on a GPU what it learns on the CPU: the same updates on fixed rollouts.

    python -m galamp.bench.gpu.parity --device cuda:0 --network nature --updates 100
        rollouts, parameters drawn on the CPU --> A2C on the CPU           --> parameters y
                                              --> A2C on the GPU, TF32 off --> parameters x
                                              --> the same, TF32 on        --> parameters x

How far apart they are is told as a share of the way gone, ||x - y|| / ||y - start||: rounding moves
them apart by a share that hardly depends on the step size, a wrong number by more. TF32 rounds the
factors of products to 10 bits of mantissa, where float32 has 23.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm, Rollout
from galamp.bench.gpu.children import ask, tell
from galamp.bench.gpu.steps import Deadline, Job, Report
from galamp.config import AlgorithmConfig
from galamp.models import build_model
from galamp.plan import CPU

UPDATES = 100
STEPS, LANES, ACTIONS = 5, 16, 4
OBSERVATION = (4, 84, 84)
SEED = 1
MOST_APART = {"float32": 1e-3, "tf32": 0.1}
"""Shares of the way gone above which something else than rounding is at work; CALIBRATE."""


class Learned(NamedTuple):
    """What came of all updates: parameters [P] before and after, and the last metrics."""

    start: Tensor
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
    yield f"{values['updates']} updates of {values['network']}, GPU and CPU apart by"
    for name in MOST_APART:
        found = values[name]
        yield (
            f"{name:8} {found['share']:.1e} of the way gone (at most {MOST_APART[name]:.0e}), "
            f"a parameter by {found['most']:.1e}, the loss by {found['loss']:.1e}"
        )


def problems(values: dict[str, Any]) -> Iterator[str]:
    """Yield where they are farther apart than rounding explains; NaN is never near."""
    if not values["moved"] > 0:
        yield "the parameters did not move: nothing was compared"
    for name, most in MOST_APART.items():
        if not values[name]["share"] <= most:
            yield (
                f"{name}: {values[name]['share']:.1e} of the way gone apart, expected at most "
                f"{most:.0e}"
            )


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
    metrics: dict[str, float] = {}
    for one in rollouts:
        there = {name: value.to(device) for name, value in vars(one).items()}
        metrics = algorithm.update(Rollout(**there))
    return Learned(start, algorithm.parameters.data.to(CPU, copy=True), metrics)


def allow_tf32(allowed: bool) -> None:
    """Have float32 products on GPUs rounded to TF32, or not."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def apart(found: Learned, expected: Learned) -> dict[str, float]:
    """Return how far apart two results are: as a share of the way, at most, and in the loss."""
    way = distance(expected.start, expected.end)
    losses = [
        each.metrics["policy_loss"] + each.metrics["value_loss"] for each in (found, expected)
    ]
    return {
        "share": distance(found.end, expected.end) / way if way else 0.0,
        "most": float((found.end - expected.end).abs().max()),
        "loss": abs(losses[0] - losses[1]),
    }


def distance(x: Tensor, y: Tensor) -> float:
    """Return the L2 norm of x - y, both [P]."""
    return float(torch.linalg.vector_norm((x - y).double()))


if __name__ == "__main__":
    main()
