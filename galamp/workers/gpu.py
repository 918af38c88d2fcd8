"""The GPU of a learner: how torch is set up for it, and what to say when its memory is full.

Runs in learners.
"""

from __future__ import annotations

import contextlib

import torch

from galamp.core.machine.gpu_failures import MemoryUse, memory_full


def use_gpu(device: str, *, benchmark: bool) -> None:
    """Configure torch for a GPU: float32 matrix products in TF32, convolutions by cuDNN.

    Args:
        device: such as `cuda:0`.
        benchmark: whether cuDNN measures which of its algorithms is fastest, at the first call of
            each shape. That takes seconds, and the choice, and with it the last bits of results,
            may differ from run to run. Without it cuDNN uses the same, deterministic algorithm each
            time.
    """
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = not benchmark


def memory_full_text(device: str, *, learners: int, steps: int, graphs: bool) -> str:
    """Return the message for a GPU without free memory.

    Args:
        device: such as `cuda:0`.
        learners: learners on it.
        steps: agent steps of one rollout.
        graphs: whether CUDA graphs are recorded.
    """
    use = None
    with contextlib.suppress(RuntimeError):  # it has no memory even for a context
        free, total = torch.cuda.mem_get_info(device)
        use = MemoryUse(total - free, total, torch.cuda.memory_allocated(device))
    return memory_full(device, use, learners=learners, steps=steps, graphs=graphs)
