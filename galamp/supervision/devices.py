"""Devices of a run: what the setting `device` stands for on this machine.

    auto, cpu, cuda, cuda:0,cuda:1 + Machine --devices_of--> cpu, or GPUs, each of them usable

Pure. Runs in the supervisor before any process starts.
"""

from __future__ import annotations

import re

from galamp.core.errors import UserError
from galamp.core.machine.machine import Machine

CPU = "cpu"


def left_out(machine: Machine) -> list[str]:
    """Return a line for each GPU that cannot be used; those of `--device` were refused before."""
    return [f"{device} is left out: {why}" for device, why in machine.unusable.items()]


def usable_devices(device: str, machine: Machine) -> str:
    """Return a stored run's setting `device` without the GPUs that cannot be used now.

    If none of them can be used, all stay, and are refused with their cause. If torch shows none of
    them, as on another machine, `auto` is returned; the stored setting keeps its devices.
    """
    if device in ("auto", CPU):
        return device
    every = [*(gpu.device for gpu in machine.gpus), *machine.unusable]
    every.sort(key=lambda name: int(name.removeprefix("cuda:")))
    shown = every if device == "cuda" else [d for d in device.split(",") if d in every]
    return ",".join([each for each in shown if each not in machine.unusable] or shown) or "auto"


def devices_of(wanted: str, machine: Machine) -> list[str]:
    """Return the devices that a setting `device` stands for, in order.

    Raises:
        UserError: it is no such setting, or the machine has no such device that can be used.
    """
    if wanted == "auto":
        return [gpu.device for gpu in machine.gpus] or [CPU]
    if wanted == CPU:
        return [CPU]
    if wanted == "cuda":
        wanted = ",".join([gpu.device for gpu in machine.gpus] + [*machine.unusable]) or "cuda:0"
    devices = wanted.split(",")
    for device in devices:
        # No leading zeros: torch takes none.
        if not re.fullmatch("cuda:(0|[1-9][0-9]{0,3})", device):
            raise UserError(
                f"--device {wanted}: expected auto, cpu, cuda, or a list such as cuda:0,cuda:1"
            )
        if device in machine.unusable:
            raise UserError(
                f"--device {device}: {machine.unusable[device]}; or use --device "
                f"{_instead(machine)}"
            )
        if device not in (gpu.device for gpu in machine.gpus):
            raise UserError(
                f"--device {device}: this machine shows {len(machine.gpus)} GPUs to torch; "
                "use --device cpu, or a torch build and driver that see the GPU"
            )
    return devices


def _instead(machine: Machine) -> str:
    """Return the usable devices, as a value of `--device`."""
    return ",".join(gpu.device for gpu in machine.gpus if gpu.name) or CPU
