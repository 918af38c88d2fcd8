"""What a GPU's failure means: its cause in words, and what its user can do.

    torch's own words --explained--> one line

Pure, and without torch: the words come from a process that has tried the GPU, or from a learner.
"""

from __future__ import annotations

import re

MOST = 300
"""Characters of torch's own words that are told."""

CURES = (
    (
        r"driver on your system is too old",
        "the driver is too old for this torch ({torch}): update the driver, or install a torch "
        "that was built for an older CUDA",
    ),
    (
        r"no kernel image is available|not compatible with the current PyTorch|NoKernelImage",
        "this torch ({torch}) was not built for its architecture: install a torch that was",
    ),
    (
        r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|MemoryAllocation",
        "its memory is full: end what uses it (nvidia-smi lists it)",
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
        r"ECC|launch failure|illegal memory access|unknown error|lost|fallen off|device-side",
        "{words}: it may be broken; see nvidia-smi, and dmesg for its Xid",
    ),
)
"""Torch's words, and what is told of them."""


def explained(words: str, torch: str) -> str:
    """Return the cause of a GPU's failure, and a cure where one is known, as one line.

    Args:
        words: what torch has raised.
        torch: version of torch and the CUDA that it was built for.
    """
    line = first_sentence(words)
    for pattern, told in CURES:
        if re.search(pattern, words, re.IGNORECASE):
            return told.format(torch=torch, words=line)
    return line or "it failed without a word"


def first_sentence(words: str) -> str:
    """Return what torch says first: behind it follow addresses, and advice for torch's makers."""
    line = " ".join(words.split())
    line = re.split(r"(?<=[a-z0-9)])\. |CUDA kernel errors might|Compile with|For debugging", line)[
        0
    ]
    return line[:MOST].strip().rstrip(".")


def memory_full(device: str, *, used: int, total: int, own: int, learners: int, steps: int) -> str:
    """Return what a learner tells whose GPU has no more memory.

    Args:
        device: such as `cuda:0`.
        used: bytes that are in use on it, by whomever.
        total: bytes that it has.
        own: bytes that this learner uses.
        learners: how many of this run's are on it.
        steps: agent steps of one rollout.
    """
    mib, several = 2**20, learners > 1
    who = f"{learners} learners of this run share it" if several else "no other learner has it"
    return (
        f"{device} has no more memory: {used / mib:,.0f} of {total / mib:,.0f} MiB are in use, "
        f"{own / mib:,.0f} of them by this learner ({steps:,} agent steps per update), and {who}: "
        f"take {'fewer --learners, ' if several else ''}a smaller --num-envs or --num-steps, or "
        "another --device; nvidia-smi lists what else uses it"
    )
