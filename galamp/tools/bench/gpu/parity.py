"""Whether A2C learns on a GPU what it learns on the CPU: the same updates on fixed rollouts.

    python -m galamp.tools.bench.gpu.parity --device cuda:0 --network nature --updates 100
        rollouts, parameters drawn on the CPU --> A2C on the CPU           --> gradient, parameters
                                              --> A2C on the GPU, TF32 off --> gradient, parameters
                                              --> the same, TF32 on        --> gradient, parameters
    the same rollouts through DeviceActor, as a run has them, TF32 off
                        --> kernel by kernel                               --> actions, parameters
                        --> as CUDA graphs, each update in one or in two   --> actions, parameters

The first gradient is where the parameters are still the same, so nothing but rounding may move it:
||g - h|| / ||h||. After all updates the parameters are compared, as a share of the way that they
have gone, ||x - y|| / ||y - start||; a share of it is lost to rounding by each update, however it
is computed. TF32 rounds the factors of products to 10 bits of mantissa, where float32 has 23.

What graphs compute is compared with the CPU's in the same way, and with the same GPU's without
graphs besides: there cuDNN is held to algorithms that always give the same, so the same kernels see
the same numbers. Actions, drawn on from the same generator, have to be equal.
"""

from __future__ import annotations

import argparse
import math
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.networks import build_model
from galamp.core.action_spec import DiscreteActions
from galamp.memory.rollouts import RolloutSlot
from galamp.supervision.devices import CPU
from galamp.tools.bench.gpu.children import ask, run, send
from galamp.tools.bench.gpu.steps import LOG_LINES, Deadline, Job, Report, cause
from galamp.workers.acting import DeviceActor

UPDATES = 100
STEPS, ENVS, ACTIONS = 5, 16, 4
BATCHES = 2
OBSERVATION = (4, 84, 84)
SEED = 1


class Most(NamedTuple):
    """Largest shares that rounding explains."""

    gradient: float
    way: float


FLOAT32 = Most(1e-4, 2e-2)
MAX_APART = {"float32": FLOAT32, "tf32": Most(6e-2, 1e-1)}
"""As tried on CPUs, with factors rounded as TF32 rounds them for the second: another order of sums
moves the first gradient by 2e-6, TF32 by 2e-2; one reward of 80 that is 0.1 too large by 8e-3, a
gamma of 0.98 by 2e-2, observations that are one row late by 0.5. Of the way of 100 updates the same
are 4e-3 and 1e-2, and for the last two 3e-2 and 0.3."""

RECORDED: dict[str, bool | None] = {"recorded": None, "in two": False}
"""How much of the gradient is reduced amid a recorded update: none, or without any effect."""
MAX_FROM_EAGER = 1e-5
"""Largest difference of any parameter after all updates, between graphs and no graphs."""


class Learned(NamedTuple):
    """Result of all updates.

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


class Refused(Exception):
    """The work of an actor or an update could not be recorded as a graph."""


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Learn the same on both devices, with graphs and without, and compare."""
    words = ("--device", job.device, "--network", job.workload.network, "--updates", UPDATES)
    values = ask("parity", words, report, deadline)
    report.say(*lines(values))
    report.judge(problems(values))


def lines(values: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between the two devices, and why nothing was recorded, if so."""
    for name, most in limits(values).items():
        found = values[name]
        yield (
            f"{name:8} the first gradient is {found['gradient']:.1e} apart (at most "
            f"{most.gradient:.0e}); after {values['updates']} updates, {found['way']:.1e} of the "
            f"way gone (at most {most.way:.0e}), the loss {found['loss']:.1e}"
        )
    for name in (each for each in RECORDED if each in values):
        found = values[name]
        yield (
            f"{name:8} as without graphs but for {found['actions']} of {found['acted']} actions, "
            f"and parameters up to {found['farthest']:.1e} (at most {MAX_FROM_EAGER:.0e})"
        )
    yield from values.get("refused", ())


def limits(values: dict[str, Any]) -> dict[str, Most]:
    """Return what was compared with the CPU, and the largest allowed difference."""
    return MAX_APART | {name: FLOAT32 for name in RECORDED if name in values}


def problems(values: dict[str, Any]) -> Iterator[str]:
    """Yield differences that rounding does not explain; NaN is always one.

    Work that was not recorded is a problem as well.
    """
    for name, most in limits(values).items():
        for what, limit in most._asdict().items():
            if not values[name][what] <= limit:
                yield f"{name}: the {what} is {values[name][what]:.1e} apart, at most {limit:.0e}"
    for name in RECORDED:
        if name not in values:
            why = cause(values.get("refused", ()))
            yield f"{name}: nothing can be recorded as CUDA graphs: {why}"
            continue
        found = values[name]
        if found["actions"]:
            yield f"{name}: {found['actions']} of {found['acted']} actions are others than without"
        if not found["farthest"] <= MAX_FROM_EAGER:
            yield (
                f"{name}: parameters are {found['farthest']:.1e} from those without graphs, at "
                f"most {MAX_FROM_EAGER:.0e}"
            )


def main() -> None:
    """Learn on all devices, and send the differences."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--updates", type=int, required=True)
    args = parser.parse_args()
    rollouts = [rollout(seed) for seed in range(args.updates)]
    send(updates=args.updates, network=args.network)
    expected = learned(args.network, CPU, rollouts)
    send(moved=distance(expected.start, expected.end))
    for name in MAX_APART:
        found = learned(args.network, args.device, rollouts, tf32=name == "tf32")
        send(**{name: apart(found, expected)})
    torch.cuda.set_device(args.device)
    torch.backends.cudnn.deterministic = True
    eager, acted = as_in_runs(args.network, args.device, rollouts)
    for name, reduces in RECORDED.items():
        try:
            found, actions = as_in_runs(args.network, args.device, rollouts, Graphs(), reduces)
        except Refused:
            send(refused=traceback.format_exc().splitlines()[-LOG_LINES:])
            return
        send(**{name: apart(found, expected) | from_eager(found.end, eager.end, actions, acted)})


def rollout(seed: int) -> Rollout:
    """Return a rollout on the CPU, drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (STEPS + 1, ENVS, *OBSERVATION)
    flags = [torch.rand(STEPS, ENVS, generator=generator) for _ in range(3)]
    return Rollout(
        observations=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        actions=torch.randint(0, ACTIONS, (STEPS, ENVS), generator=generator),
        rewards=torch.randn(STEPS, ENVS, generator=generator).clamp(-1.0, 1.0),
        terminated=flags[0] < 0.05,
        truncated=flags[1] < 0.01,
        valid=flags[2] < 0.99,
        first=torch.zeros(STEPS + 1, ENVS, dtype=torch.bool),
    )


def learned(
    network: str, device: str, rollouts: Sequence[Rollout], *, tf32: bool = False
) -> Learned:
    """Return the result of A2C with the rollouts on `device`; all else is equal on all devices."""
    algorithm = learner_of(network, device, tf32=tf32)
    start = algorithm.parameters.data.to(CPU, copy=True)
    gradient, metrics = torch.zeros_like(start), dict[str, float]()
    for number, one in enumerate(rollouts):
        metrics = algorithm.update(one.mapped(lambda tensor: tensor.to(device)))
        if number == 0:
            gradient = algorithm.parameters.grad.to(CPU, copy=True)
    return Learned(start, gradient, algorithm.parameters.data.to(CPU, copy=True), metrics)


def as_in_runs(
    network: str,
    device: str,
    rollouts: Sequence[Rollout],
    graphs: Graphs | None = None,
    reduces: bool | None = None,
) -> tuple[Learned, Tensor]:
    """Act on rollouts and learn from them as a learner does on a GPU, with graphs or without.

    What is acted is drawn and kept; what is learned from are the rollouts' own actions.

    Args:
        network: its name.
        device: a GPU, the current one.
        rollouts: on the CPU.
        graphs: records all, before anything is learned; None: nothing is recorded.
        reduces: None: an update is one graph, else two, with nothing done in between.

    Returns:
        What was learned, and the actions, [updates, T, B].

    Raises:
        Refused: it cannot be recorded.
    """
    algorithm = learner_of(network, device)
    slot = RolloutSlot(
        *(getattr(rollouts[0], name).clone().numpy() for name in RolloutSlot._fields)
    )
    actor = DeviceActor([slot], algorithm, torch.device(device), clip_rewards=False)
    batches = [slice(low, low + ENVS // BATCHES) for low in range(0, ENVS, ENVS // BATCHES)]
    if graphs is not None:
        try:
            actor.launches = actor.record(graphs, batches)
            algorithm.record(actor.filled, graphs, reduces)
        except Exception as error:
            raise Refused from error
    start, gradient = algorithm.parameters.data.to(CPU, copy=True), torch.empty(0)
    actions = np.zeros((len(rollouts), STEPS, ENVS), np.int64)
    metrics: dict[str, float] = {}
    for number, one in enumerate(rollouts):
        for name, values in slot._asdict().items():
            values[:] = getattr(one, name).numpy()
        for step, row in enumerate(actions[number]):
            for envs in batches:
                row[envs] = actor.act(0, step, envs)
        for envs in batches:
            actor.observe(0, STEPS, envs)
        filled = actor.rollout(0, np.ones((STEPS, ENVS), np.bool_))
        metrics = algorithm.update(filled, None if reduces is None else lambda: reduces)
        if number == 0:
            gradient = algorithm.parameters.grad.to(CPU, copy=True)
    end = algorithm.parameters.data.to(CPU, copy=True)
    return Learned(start, gradient, end, metrics), torch.from_numpy(actions)


def learner_of(network: str, device: str, *, tf32: bool = False) -> Algorithm:
    """Return A2C in its initial state, the same on all devices."""
    model = build_model(network, OBSERVATION, "uint8", ACTIONS, seed=SEED)
    config = A2CConfig(learning_rate=7e-4)
    algorithm: Algorithm = make_algorithm(
        config, model, actions=DiscreteActions(ACTIONS), device=device, seed=SEED
    )
    allow_tf32(tf32)  # last, since the algorithm may have set it
    return algorithm


def from_eager(found: Tensor, expected: Tensor, actions: Tensor, acted: Tensor) -> dict[str, Any]:
    """Return how graphs differ from work without: parameters [P], and actions [updates, T, B]."""
    return {
        "farthest": float((found - expected).abs().max()),
        "actions": int((actions != acted).sum()),
        "acted": acted.numel(),
    }


def allow_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in float32 products on GPUs."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def apart(found: Learned, expected: Learned) -> dict[str, float]:
    """Return the differences of two results: first gradient, distance from the start, and loss."""
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
