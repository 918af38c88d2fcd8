"""A learner's rollouts: observations in, actions out, until one is full.

    simulators --row--> LearnerPort.take -> Observations.bring -> act -> send --> simulators

Runs in the learner. The simulators are split into batches that take turns: while the policy acts
for one, the others simulate. Where the policy lives on a GPU, each observation crosses the bus
once: it is copied when it is acted on, on a stream of its own, and kept there for the update.

The lanes of a simulator that has died or is late are acted on, and learned from by nobody.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.tape import Place
from galamp.crashpoints import reach
from galamp.metrics import MetricsRow, Phase
from galamp.ports import Idle, LearnerPort
from galamp.rollouts import SLOTS, RolloutShape, Slot


class Observations:
    """The slots' observations `[T+1, B, ...]` where the policy sees them: in shared memory."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.tensors = [torch.from_numpy(slot.observations) for slot in slots]

    def bring(self, slot: int, step: int, lanes: slice) -> Tensor:
        """Return row `step` of `lanes`, `[b, ...]`, ready to be acted on."""
        return self.tensors[slot][step, lanes]


class DeviceObservations(Observations):
    """The same on a GPU.

    A slot's former rollout has been learned from before a new row is copied over it: every update
    ends by waiting for the GPU, so the two streams never meet in one slot.
    """

    def __init__(self, slots: Sequence[Slot], device: torch.device) -> None:
        super().__init__(slots)
        self._shared = self.tensors
        self.tensors = [tensor.to(device) for tensor in self._shared]
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def bring(self, slot: int, step: int, lanes: slice) -> Tensor:
        """Start the copy of a row, and have the policy's stream wait for it."""
        there = self.tensors[slot][step, lanes]
        with torch.cuda.stream(self._copies):
            there.copy_(self._shared[slot][step, lanes], non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._copies)
        return there


class Collector:
    """Fills rollouts with the present policy."""

    def __init__(
        self,
        port: LearnerPort,
        algorithm: Algorithm,
        metrics: MetricsRow,
        idle: Idle,
        *,
        device: torch.device,
        batches: int,
        clip_rewards: bool,
    ) -> None:
        self._port, self._algorithm, self._metrics, self._idle = port, algorithm, metrics, idle
        self._device, self._clip = device, clip_rewards
        self._steps = port.shape.num_steps
        algorithm.expect(port.shape.num_steps, port.shape.num_envs)
        self._batches = split(port.shape, batches)
        on_gpu = device.type == "cuda"
        slots = port.slots
        if on_gpu:
            metrics["page_lock_refusal"] = max(metrics["page_lock_refusal"], port.page_lock())
        self._observations = DeviceObservations(slots, device) if on_gpu else Observations(slots)
        names = ("actions", "rewards", "terminated", "truncated", "valid")
        self._outcomes = [[torch.from_numpy(getattr(s, name)) for name in names] for s in slots]

    def collect(self, number: int) -> Rollout:
        """Collect rollout `number`; it is valid until the next one is begun."""
        slot, first = number % SLOTS, number * self._steps
        self._metrics.enter(Phase.COLLECT)
        self._port.begin(number, self._idle)
        for step in range(self._steps):
            if step == self._steps // 2:
                reach("collector.half")
            for workers, lanes in self._batches:
                self._take(first + step, workers)
                observations = self._observations.bring(slot, step, lanes)
                actions = self._algorithm.act(observations, Place(step, lanes))
                self._port.send(first + step, workers, actions.cpu().numpy())
        for workers, lanes in self._batches:
            self._take(first + self._steps, workers)
            self._observations.bring(slot, self._steps, lanes)
        return self._rollout(slot)

    @property
    def agent_steps(self) -> int:
        """Agent steps of the last rollout: those of simulators that took part."""
        return int(self._port.trusted.sum())

    def _take(self, row: int, workers: range) -> None:
        """Wait for the simulators; the time after that is the policy's."""
        self._metrics.enter(Phase.COLLECT)
        self._port.take(row, workers, self._idle)
        self._metrics.enter(Phase.INFER)

    def _rollout(self, slot: int) -> Rollout:
        actions, rewards, *flags, valid = self._outcomes[slot]
        trained_on = rewards.clamp(-1.0, 1.0) if self._clip else rewards
        valid = valid & torch.from_numpy(self._port.trusted)
        moved = [tensor.to(self._device) for tensor in (actions, trained_on, *flags, valid)]
        return Rollout(self._observations.tensors[slot], *moved)


def split(shape: RolloutShape, batches: int) -> list[tuple[range, slice]]:
    """Split the simulators into `batches` contiguous parts: their numbers and their lanes."""
    edges = [shape.workers * part // batches for part in range(batches + 1)]
    parts = [range(low, high) for low, high in itertools.pairwise(edges)]
    return [(part, slice(shape.lanes(part[0]).start, shape.lanes(part[-1]).stop)) for part in parts]
