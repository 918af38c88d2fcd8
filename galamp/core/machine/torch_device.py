"""Torch device of a name; a GPU is tried before it is used."""

from __future__ import annotations

import torch

from galamp.core.errors import UserError
from galamp.core.machine.gpu_failures import explain
from galamp.core.machine.gpus import torch_build


def usable_device(name: str | torch.device) -> torch.device:
    """Return the device of a name; `auto` is a GPU if there is one.

    Raises:
        UserError: the device does not exist here, or cannot be used.
    """
    gpus = 0 if str(name) == "cpu" else torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected auto, cpu, cuda, or a GPU such as cuda:0")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UserError(
            f"--device {name}: this machine shows {gpus} GPUs to torch; use --device cpu"
        )
    if device.type == "cuda":
        _try(device)
    return device


def _try(device: torch.device) -> None:
    """Compute on a GPU.

    Raises:
        UserError: it cannot be used.
    """
    try:
        float(torch.ones(1, device=device) + 1)
    except RuntimeError as error:
        why = explain(str(error), torch_build())
        raise UserError(f"--device {device}: {why}; or use --device cpu") from error
