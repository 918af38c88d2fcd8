"""GPUs: which can be used, what they are and why others cannot; tried by a process of their own.

    try_gpus(indices) --request--> gpu_trial: a child per GPU: context, kernel, copies
                      <--answer--  GpuFacts, or why it cannot be used, by index

Runs in the supervisor, before a run takes its GPUs.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection
from dataclasses import dataclass

from galamp.core.machine.gpu_failures import explained
from galamp.core.processes.probe_process import Answer, Probing

GPU_TIMEOUT_S = 60.0
"""So long a GPU may take: without persistence mode a driver needs many seconds to wake it."""
LOAD_TIMEOUT_S = 60.0
"""So long the trial may take besides, to load torch."""
FRESH_S = 60.0
"""A GPU that was tried so short a time ago is not tried again: settings are read twice."""


@dataclass(frozen=True)
class GpuFacts:
    """What a GPU is.

    Attributes:
        name: the maker's name for it.
        uuid: what tells it from all others; "" where this torch does not tell.
        pci: its PCI address as sysfs writes it; "" where this torch does not tell.
        memory_bytes: its memory.
    """

    name: str
    uuid: str
    pci: str
    memory_bytes: int


Found = GpuFacts | str
"""What a GPU is, or why it cannot be used."""

_tried: dict[int, tuple[float, Found]] = {}


def try_gpus(indices: Collection[int]) -> dict[int, Found]:
    """Try GPUs, all at the same time.

    Args:
        indices: as torch counts those that this process is shown.
    """
    now_s = time.monotonic()
    stale = [i for i in indices if i not in _tried or now_s - _tried[i][0] > FRESH_S]
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
    return understood(answer, indices, trial.ending)


def understood(answer: Answer, indices: Collection[int], ending: str) -> dict[int, Found]:
    """Return what a trial's answer says of each GPU.

    Args:
        answer: of the trial.
        indices: those that it was asked for.
        ending: how its process ended, for those that it says nothing of.
    """
    last = (answer.errors.splitlines() or ["it printed nothing"])[-1]
    why = ending if answer.in_time else f"not within {GPU_TIMEOUT_S + LOAD_TIMEOUT_S:g} s"
    found: dict[int, Found] = dict.fromkeys(indices, f"could not be tried ({why}): {last}")
    for line in answer.text.splitlines():
        with contextlib.suppress(ValueError, LookupError, TypeError):
            told = json.loads(line)
            if told["index"] in found:
                facts = "facts" in told
                found[told["index"]] = GpuFacts(**told["facts"]) if facts else _cause(told)
    return found


def _cause(told: dict[str, str]) -> str:
    return explained(told["failure"], torch_build())


def torch_build() -> str:
    """Return this torch's version, and the CUDA that it was built for."""
    import torch  # loaded by whoever has counted GPUs

    cuda = torch.version.cuda
    return f"{torch.__version__}, {f'for CUDA {cuda}' if cuda else 'without CUDA'}"
