"""GPU failures: the cause of an error of torch, and what the user can do, as one line.

    error text of torch --explain--> one line

Pure, and without torch: the text comes from a process that has tried the GPU, or from a learner.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_CHARACTERS = 300
"""Most characters of torch's text in a message."""

MEMORY = r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|MemoryAllocation"
ADVICE = re.compile(
    r"\n(Search for|CUDA kernel errors might|For debugging|Compile with|Device-side assertion)"
)
"""Start of the advice that torch adds to every CUDA error (2.11 to 2.13)."""

REMEDIES = (
    (
        r"driver on your system is too old|unsupported toolchain|unsupported PTX|driver version is "
        "insufficient",
        "the driver is too old for this torch ({torch}): update the driver, or install a torch "
        "that was built for an older CUDA",
    ),
    (
        r"no kernel image is available|not compatible with the current PyTorch|NoKernelImage",
        "this torch ({torch}) was not built for its architecture: install a torch that was",
    ),
    (
        MEMORY,
        "its memory is full: end programs that use it (nvidia-smi lists them)",
    ),
    (
        r"invalid device ordinal",
        "torch counts it, CUDA does not show it, as where another one is cut up (MIG): name those "
        "that are there in --device",
    ),
    (
        r"busy or unavailable|DevicesUnavailable|exclusive",
        "another process has it for itself (compute mode): nvidia-smi -c DEFAULT shares it",
    ),
    (
        r"system not yet initialized|SystemNotReady|fabric",
        "the driver's fabric manager does not run: start nvidia-fabricmanager",
    ),
    (
        r"no NVIDIA driver|driver shutting down|driver/library version mismatch|Torch not compiled",
        "{words}: install a driver, restart the machine after an update of it, or install a torch "
        "that was built for CUDA",
    ),
    (
        r"ECC|launch failure|illegal memory access|unknown error|lost|fallen off|"
        "device-side assert triggered",
        "{words}: it may be broken; see nvidia-smi, and dmesg for its Xid",
    ),
)
"""Pattern of torch's text -> message; {words}: torch's first sentence, {torch}: torch's version."""


class MemoryUse(NamedTuple):
    """Memory of a GPU in bytes: used by all processes, total, used by this process."""

    used: int
    total: int
    own: int


def is_memory_full(words: str) -> bool:
    """Whether an error text of torch means that a GPU has no free memory."""
    return re.search(MEMORY, without_advice(words), re.IGNORECASE) is not None


def explain(words: str, torch: str) -> str:
    """Return the cause of a GPU failure, and a remedy if one is known, as one line.

    Args:
        words: error text of torch.
        torch: version of torch, and of the CUDA that it was built for.
    """
    said = without_advice(words)
    line = first_sentence(said)
    for pattern, message in REMEDIES:
        if re.search(pattern, said, re.IGNORECASE):
            return message.format(torch=torch, words=line)
    return line or "it failed without a word"


def without_advice(words: str) -> str:
    """Return an error text of torch without the advice for developers at its end."""
    return ADVICE.split(words)[0]


def first_sentence(words: str) -> str:
    """Return the first sentence of an error text of torch; addresses follow it."""
    line = re.split(r"(?<=[a-z0-9)])\. ", " ".join(words.split()))[0]
    return line[:MAX_CHARACTERS].strip().rstrip(".")


def memory_full(
    device: str, use: MemoryUse | None, *, learners: int, steps: int, graphs: bool
) -> str:
    """Return the message of a learner whose GPU has no free memory.

    Args:
        device: such as `cuda:0`.
        use: use of its memory; None if unknown.
        learners: number of this run's learners on the GPU.
        steps: agent steps of one rollout.
        graphs: whether CUDA graphs are recorded.
    """
    mib, several = 2**20, learners > 1
    sharing = f"{learners} learners of this run share it" if several else "no other learner has it"
    known = ""
    if use is not None:
        known = (
            f"{use.used / mib:,.0f} of {use.total / mib:,.0f} MiB are in use, "
            f"{use.own / mib:,.0f} of them by this learner ({steps:,} agent steps per update), and "
        )
    return (
        f"{device} has no more memory: {known}{sharing}: take "
        f"{'fewer --learners, ' if several else ''}a smaller --num-envs or --num-steps, "
        f"{'--no-graphs, ' if graphs else ''}or another --device; nvidia-smi lists what else uses "
        "it"
    )
