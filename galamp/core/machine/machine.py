"""Machine: processors with their cores and NUMA nodes, GPUs, limit on open files.

    sysfs (/sys/devices/system), the affinity of this process --inspect_machine--> Machine
    torch counts GPUs, a separate process tries them          ------^

This module only inspects; `plan` decides. If the kernel does not report the topology, the simplest
one is assumed: one core per processor, all on one node.
"""

from __future__ import annotations

import math
import os
import platform
import re
import resource
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from galamp.core.machine.cpu_quota import allowed_processors
from galamp.core.machine.gpus import Found, GpuFacts, try_gpus

SYSFS = Path("/sys")
MAX_LISTED = 1 << 16
"""Most processors in a list of the kernel."""


@dataclass(frozen=True)
class Cpu:
    """Hardware thread that this process may use.

    Attributes:
        number: number in the kernel, as in an affinity mask.
        core: (socket, number) of the physical core; sibling threads share one.
        node: NUMA node with the nearest memory.
    """

    number: int
    core: tuple[int, int]
    node: int = 0


@dataclass(frozen=True)
class Gpu:
    """GPU, as torch counts them.

    Attributes:
        index: number in the name of its device, `cuda:<index>`.
        node: NUMA node that it is attached to; None if unknown.
        name: product name; "" if it was not tried.
        uuid: unique id; "" if it was not tried, or torch does not report it.
    """

    index: int
    node: int | None = None
    name: str = ""
    uuid: str = ""

    @property
    def device(self) -> str:
        """Name of the device in torch."""
        return f"cuda:{self.index}"


@dataclass(frozen=True)
class Machine:
    """Resources that this process may use.

    Attributes:
        cpus: processors.
        gpus: GPUs that torch sees, without those that are `unusable`.
        descriptors: hard limit on open files.
        unusable: device -> reason, for GPUs that were tried and cannot be used.
        quota: number of processors whose time control groups allow; None without a limit.
    """

    cpus: tuple[Cpu, ...]
    gpus: tuple[Gpu, ...]
    descriptors: int
    unusable: dict[str, str] = field(default_factory=dict)
    quota: float | None = None

    @property
    def cores(self) -> tuple[int, ...]:
        """Numbers of the processors (hardware threads)."""
        return tuple(cpu.number for cpu in self.cpus)

    @property
    def usable(self) -> int:
        """Number of processors whose time it may use: all, or the quota, rounded up."""
        most = len(self.cpus)
        return most if self.quota is None else max(1, min(most, math.ceil(self.quota)))

    @property
    def throttled(self) -> bool:
        """Whether it may not use all of its processors all the time."""
        return self.quota is not None and self.quota < len(self.cpus)


def quota_text(machine: Machine) -> str:
    """Return the quota of a control group as text."""
    return f"a control group allows {machine.quota:.3g} of {len(machine.cpus)} processors' time"


def plain_machine(cores: Iterable[int], gpus: int, descriptors: int) -> Machine:
    """Return a machine with one socket, one thread per core, and GPUs without known NUMA nodes."""
    cpus = tuple(Cpu(number, (0, number)) for number in cores)
    return Machine(cpus, tuple(map(Gpu, range(gpus))), descriptors)


def inspect_machine(device: str) -> Machine:
    """Inspect processors and their quota, GPUs, and the limit on open files.

    Args:
        device: the setting `device`. The GPUs that it names are tried; all GPUs, if it names none
            that torch sees; none for `cpu`.
    """
    gpus, unusable = ((), {}) if device == "cpu" else inspect_gpus(device)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    descriptors = 2**20 if hard == resource.RLIM_INFINITY else hard
    cpus = inspect_cpus(sorted(os.sched_getaffinity(0)))
    return Machine(cpus, gpus, descriptors, unusable, allowed_processors())


def inspect_gpus(device: str) -> tuple[tuple[Gpu, ...], dict[str, str]]:
    """Return usable GPUs, and device -> reason for others; see `inspect_machine`."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch.cuda  # only counts: the supervisor never makes a CUDA context

    count = torch.cuda.device_count()
    named = {int(index) for index in re.findall("cuda:([0-9]{1,4})(?![0-9])", device)}
    tried = sorted(named.intersection(range(count))) or list(range(count))
    found: dict[int, Found] = try_gpus(tried) if tried else {}
    unusable = {f"cuda:{index}": why for index, why in found.items() if isinstance(why, str)}
    gpus = (_gpu(index, found.get(index)) for index in range(count))
    return tuple(gpu for gpu in gpus if gpu.device not in unusable), unusable


def _gpu(index: int, facts: Found | None) -> Gpu:
    if not isinstance(facts, GpuFacts):
        return Gpu(index)
    return Gpu(index, node_of_pci(facts.pci), facts.name, facts.uuid)


def inspect_cpus(numbers: Iterable[int], sysfs: Path = SYSFS) -> tuple[Cpu, ...]:
    """Return the processors `numbers` with their cores and nodes, from sysfs."""
    nodes = _nodes(sysfs / "devices/system/node")
    return tuple(_cpu(n, nodes.get(n, 0), sysfs / "devices/system/cpu") for n in numbers)


def node_of_pci(address: str, sysfs: Path = SYSFS) -> int | None:
    """Return the NUMA node of the PCI device at `address`, such as 0000:3b:00.0, or None."""
    node = _number(sysfs / "bus/pci/devices" / address.lower() / "numa_node") if address else None
    return node if node is not None and node >= 0 else None


def parse_list(text: str) -> list[int]:
    """Return the numbers of a list in the kernel's format: `0-2,8` is 0, 1, 2, 8.

    Raises:
        ValueError: the text has another format.
    """
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        span = range(int(first), int(last if dash else first) + 1)
        if len(numbers) + len(span) > MAX_LISTED:
            raise ValueError(f"more than {MAX_LISTED} processors")
        numbers += span
    return numbers


def format_list(numbers: Iterable[int]) -> str:
    """Return numbers as a list in the kernel's format: 0, 1, 2, 8 is `0-2,8`."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)


def _cpu(number: int, node: int, folder: Path) -> Cpu:
    topology = folder / f"cpu{number}" / "topology"
    socket, core = (_number(topology / name) for name in ("physical_package_id", "core_id"))
    if core is None or core < 0:
        return Cpu(number, (-1, number), node)  # without a sibling thread
    return Cpu(number, (-1 if socket is None else socket, core), node)


def _nodes(folder: Path) -> dict[int, int]:
    """Return the NUMA node of each processor that the kernel lists: number -> node."""
    found: dict[int, int] = {}
    for path in sorted(folder.glob("node*/cpulist")):
        name = re.fullmatch("node([0-9]{1,6})", path.parent.name)
        try:
            if name:
                found |= dict.fromkeys(parse_list(path.read_text()), int(name[1]))
        except (OSError, ValueError):
            continue  # this node is ignored
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def processor_flags() -> list[str]:
    """Return the names of what the processor can do, as the kernel lists them."""
    return _of_processor("flags", "Features").split()


def lacks_bf16() -> bool:
    """Whether the processor has no bf16 units, and so computes bf16 slower than float32."""
    flags = processor_flags()
    return not any(name in flags for name in ("avx512_bf16", "amx_bf16", "bf16"))


def machine_id(root: Path = Path("/")) -> str:
    """Return the unique id of this machine, "" if it has none.

    The host name is not unique: a container gets another one at every start.
    """
    for path in (root / "etc/machine-id", root / "var/lib/dbus/machine-id"):
        try:
            text = path.read_text(errors="replace").strip()
        except OSError:
            continue
        if re.fullmatch(r"[0-9a-f]{32}", text):
            return text
    return ""


def processor_name() -> str:
    """Return the name of the processor, or its architecture if the kernel reports no name."""
    return _of_processor("model name") or platform.machine()


def _of_processor(*names: str) -> str:
    """Return the first processor's value for one of `names` in /proc/cpuinfo; "" if missing."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    fields = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in fields if name.strip() in names), "")
