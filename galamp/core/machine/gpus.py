"""GPUs: facts of those that can be used, and reasons for others; a separate process tries them.

    try_gpus(indices) --request--> gpu_trial: a child per GPU: context, kernel, copies
                      <--answer--  GpuFacts, or why it cannot be used, by index

Runs in the supervisor, before a run takes its GPUs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass

from galamp.core.decode import Limits, decode
from galamp.core.json_values import DecodeError, json_object
from galamp.core.machine.gpu_failures import explain
from galamp.core.processes.probe_process import Answer, Probing

GPU_TIMEOUT_S = 60.0
"""Time for all GPUs: without persistence mode a driver needs many seconds to wake a GPU."""
LOAD_TIMEOUT_S = 60.0
"""Additional time of the trial, to load torch."""
MAX_AGE_S = 60.0
"""Results that are younger than this are used again: settings are read twice."""


@dataclass(frozen=True)
class GpuFacts:
    """Facts of a GPU.

    Attributes:
        name: product name.
        uuid: unique id; "" if this torch does not report it.
        pci: PCI address as in sysfs; "" if this torch does not report it.
        memory_bytes: size of its memory.
    """

    name: str
    uuid: str
    pci: str
    memory_bytes: int


LIMITS = Limits(more_fields=True)


@dataclass(frozen=True)
class _Result:
    """A line of the answer: facts of one GPU, or what failed."""

    index: int
    facts: GpuFacts | None = None
    failure: str = ""


Found = GpuFacts | str
"""Facts of a GPU, or the reason why it cannot be used."""

_tried: dict[int, tuple[float, Found]] = {}


def try_gpus(indices: Collection[int]) -> dict[int, Found]:
    """Try GPUs, all at the same time.

    Args:
        indices: torch's numbers of the GPUs that are visible to this process.
    """
    now_s = time.monotonic()
    stale = [i for i in indices if i not in _tried or now_s - _tried[i][0] > MAX_AGE_S]
    if stale:
        for index, found in _try(stale).items():
            _tried[index] = time.monotonic(), found
    return {index: _tried[index][1] for index in indices}


def _try(indices: list[int]) -> dict[int, Found]:
    request = {"indices": indices, "gpu_timeout_s": GPU_TIMEOUT_S}
    trial = Probing(
        "galamp.core.machine.gpu_trial", request, timeout_s=GPU_TIMEOUT_S + LOAD_TIMEOUT_S
    )
    try:
        answer = trial.answer()
    except BaseException:
        trial.cancel()
        raise
    return parse_answer(answer, indices, trial.ending)


def parse_answer(answer: Answer, indices: Collection[int], ending: str) -> dict[int, Found]:
    """Return the result for each GPU from the answer of a trial.

    Args:
        answer: answer of the trial.
        indices: GPUs of the request.
        ending: how its process ended, for GPUs without a line in the answer.
    """
    last = (answer.errors.splitlines() or ["it printed nothing"])[-1]
    why = ending if answer.in_time else f"not within {GPU_TIMEOUT_S + LOAD_TIMEOUT_S:g} s"
    found: dict[int, Found] = dict.fromkeys(indices, f"could not be tried ({why}): {last}")
    for line in answer.text.splitlines():
        with contextlib.suppress(DecodeError):
            result = decode(_Result, json_object(line), LIMITS)
            if result.index in found and result.facts is not None:
                found[result.index] = result.facts
            elif result.index in found and result.failure:
                found[result.index] = explain(result.failure, torch_build())
    return found


def torch_build() -> str:
    """Return this torch's version, and the CUDA that it was built for."""
    import torch  # already loaded to count GPUs

    cuda = torch.version.cuda
    return f"{torch.__version__}, {f'for CUDA {cuda}' if cuda else 'without CUDA'}"
