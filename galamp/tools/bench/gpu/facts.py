"""Facts of the machine: driver, GPUs, cores, NUMA nodes, and the build of torch.

    python -m galamp.tools.bench.gpu.facts --send--> values --lines--> text
                                               values --problems--> what cannot work

A GPU is asked for its properties in the child only.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from galamp.core.machine.gpu_meters import SMI, SMI_DEADLINE_S
from galamp.core.machine.machine import (
    Cpu,
    format_list,
    inspect_cpus,
    node_of_pci,
    processor_name,
)
from galamp.core.machine.mps import mps_folder
from galamp.telemetry.display.text import UNKNOWN
from galamp.tools.bench.gpu.children import ask, run, send
from galamp.tools.bench.gpu.steps import Deadline, Job, Report

DRIVER_FILE = Path("/proc/driver/nvidia/version")
BYTES_PER_GIB = 2**30


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Collect the facts, and check that torch fits the machine."""
    values = ask("facts", (), report, deadline)
    report.say(*lines(values))
    report.judge(problems(values))


def lines(values: dict[str, Any]) -> Iterator[str]:
    """Yield the facts as they are shown."""
    yield (
        f"driver {values['driver'] or UNKNOWN} (CUDA {values['driver_cuda'] or UNKNOWN}), "
        f"torch {values['torch']} (CUDA {values['torch_cuda'] or UNKNOWN}, "
        f"cuDNN {values['cudnn'] or UNKNOWN}), Python {values['python']}"
    )
    for gpu in values["gpus"]:
        node = UNKNOWN if gpu["node"] is None else gpu["node"]
        yield (
            f"cuda:{gpu['index']} {gpu['name']}, {gpu['memory_bytes'] / BYTES_PER_GIB:.0f} GiB, "
            f"sm_{gpu['capability'][0]}{gpu['capability'][1]}, "
            f"{gpu['multiprocessors']} multiprocessors, PCI {gpu['pci']}, NUMA node {node}, "
            f"UUID {gpu['uuid']}"
        )
    yield (
        f"{values['cpu']}: {values['processors']} processors, {values['physical_cores']} cores, "
        f"NUMA nodes {values['nodes']}; MPS {'runs' if values['mps'] else 'does not run'}"
    )


def problems(values: dict[str, Any]) -> Iterator[str]:
    """Yield why torch cannot use the GPUs."""
    if not values["gpus"]:
        yield "torch sees no GPU"
    for gpu in values["gpus"]:
        if values["archs"] and not runs_on(tuple(gpu["capability"]), values["archs"]):
            major, minor = gpu["capability"]
            yield (
                f"cuda:{gpu['index']} is sm_{major}{minor}, and this torch is built for "
                f"{', '.join(values['archs'])}: install a build for this GPU"
            )


def runs_on(capability: tuple[int, int], archs: Sequence[str]) -> bool:
    """Return whether a GPU runs kernels of a build with `archs`, such as sm_90 or compute_90.

    Machine code (sm) runs on GPUs of the same major number and a minor number not below its own;
    PTX (compute) is compiled by the driver for any that is not older.
    """
    for arch in archs:
        match = re.fullmatch("(sm|compute)_([0-9]+)([0-9])[af]?", arch)
        if match is None:
            continue
        kind, major, minor = match[1], int(match[2]), int(match[3])
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= capability:
            return True
    return False


def main() -> None:
    """Send all facts; those that need no GPU come first."""
    cpus = inspect_cpus(sorted(os.sched_getaffinity(0)))
    send(
        cpu=processor_name(),
        python=platform.python_version(),
        mps=mps_folder() is not None,
        **counts(cpus),
    )
    send(driver=driver())
    import torch

    cudnn: Any = torch.backends.cudnn
    send(
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        cudnn=cudnn.version() if cudnn.is_available() else None,
        driver_cuda=_driver_cuda(),
        archs=torch.cuda.get_arch_list(),
    )
    send(gpus=[_gpu(index) for index in range(torch.cuda.device_count())])


def counts(cpus: Sequence[Cpu]) -> dict[str, Any]:
    """Return how many processors and cores there are, and on which nodes."""
    return {
        "processors": len(cpus),
        "physical_cores": len({cpu.core for cpu in cpus}),
        "nodes": format_list(cpu.node for cpu in cpus),
    }


def driver(file: Path = DRIVER_FILE) -> str:
    """Return the version of NVIDIA's driver; empty where it is unknown."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        command = [SMI, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            text = subprocess.run(
                command, capture_output=True, text=True, timeout=SMI_DEADLINE_S, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return ""
    match = re.search(r"\b[0-9]{3,4}\.[0-9]+(\.[0-9]+)?\b", text)
    return match[0] if match else ""


def _driver_cuda() -> str:
    """Return the newest version of CUDA that the driver can run; empty where it is unknown."""
    import torch

    native: Any = torch._C
    try:
        version = int(native._cuda_getDriverVersion())
    except (AttributeError, RuntimeError):
        return ""
    return f"{version // 1000}.{version % 1000 // 10}"


def _gpu(index: int) -> dict[str, Any]:
    import torch

    found: Any = torch.cuda.get_device_properties(index)
    numbers = [getattr(found, f"pci_{name}_id", 0) for name in ("domain", "bus", "device")]
    address = "{:04x}:{:02x}:{:02x}.0".format(*numbers)
    return {
        "index": index,
        "name": found.name,
        "uuid": str(getattr(found, "uuid", "")),
        "memory_bytes": found.total_memory,
        "capability": [found.major, found.minor],
        "multiprocessors": found.multi_processor_count,
        "pci": address,
        "node": node_of_pci(address),
    }


if __name__ == "__main__":
    run(main)
