"""The Python side of a CUDA device made of host memory: what `torch.cuda` is put in place of.

    sitecustomize --> when_torch_is_imported --import torch--> load, then replace in torch.cuda

Needs nothing but the standard library and torch: it is loaded by path, in any process. What the
device does is set by environment variables, each read when it first matters:

    FAKE_CUDA_LIBRARY        the compiled half, see build.py
    FAKE_CUDA_DEVICES        how many devices there are, at most 16
    FAKE_CUDA_HOLD           if set, copies that the host does not wait for are held back for as
                             long as a real device may: until something waits for their stream
    FAKE_CUDA_COUNTS         a folder where each process leaves its counts, named by its id
    FAKE_CUDA_MEMORY         `1:5000000`: device 1 has so many bytes (otherwise 80 GiB)
    FAKE_CUDA_HOST_REGISTER  a code, such as 801, with which every cudaHostRegister is refused
    FAKE_CUDA_HOST_ALLOC     a code with which there is no other page-locked memory, either
    FAKE_CUDA_NO_GRAPHS      if set, no capture of a CUDA graph can begin
    FAKE_CUDA_OLD_DRIVER     `1`: the driver is too old, as is found when device 1 is set
    FAKE_CUDA_NO_KERNEL      `1`: no kernel runs on device 1, as where torch is not built for a GPU
    FAKE_CUDA_FAILS_AT       `1:aten::_fused_adam_:2`: device 1 fails from the second such kernel on
    FAKE_CUDA_UNPLUGGED      a file: the devices whose numbers stand in it are gone from then on
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import os
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: "
    "http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to "
    "install a PyTorch version that has been compiled with your version of the CUDA driver."
)
BAD_FORK = (
    "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must "
    "use the 'spawn' start method"
)


POOLS = itertools.count(1)


class TorchFinder(importlib.abc.MetaPathFinder):
    """Finds torch where it is, and has it installed on once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return torch's own spec, with a loader that installs; None for any other module."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.loader is not None and spec.origin is not None:
            load, folder = spec.loader.exec_module, os.path.dirname(spec.origin)

            def exec_module(module: ModuleType) -> None:
                library = load_library(folder)
                load(module)
                replace(library, module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def when_torch_is_imported() -> None:
    """Install as soon as this process imports torch, if it does."""
    sys.meta_path.insert(0, TorchFinder())


def load_library(torch_folder: str) -> ctypes.CDLL:
    """Load the compiled half, before torch asks for the first time whether there is CUDA."""
    dependencies = os.path.join(torch_folder, "lib", "libtorch_global_deps.so")
    ctypes.CDLL(dependencies, mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(os.environ["FAKE_CUDA_LIBRARY"], mode=ctypes.RTLD_GLOBAL)
    library.fake_cuda_host_register.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    library.fake_cuda_host_unregister.argtypes = (ctypes.c_size_t,)
    library.fake_cuda_current_stream.restype = ctypes.c_int64
    return library


def replace(library: ctypes.CDLL, torch: Any) -> None:
    """Put functions that know the devices in place of those of `torch.cuda` that need CUDA."""
    cuda = Cuda(library, torch)
    of_cuda = [module for name, module in sys.modules.items() if name.startswith("torch.cuda")]
    for name in [name for name in vars(Cuda) if not name.startswith("__")]:
        old = vars(torch.cuda).get(name)
        for module in of_cuda:
            if module is torch.cuda or (old is not None and vars(module).get(name) is old):
                setattr(module, name, getattr(cuda, name))
    torch.cuda.Stream, torch.cuda.Event = stream_type(torch), event_type(torch)
    torch.cuda.CUDAGraph = torch.cuda.graphs.CUDAGraph = graph_type(torch)
    torch._C._host_emptyCache = lambda: None
    torch.cuda.AcceleratorError = torch.AcceleratorError
    library.fake_cuda_give_defaults(1)
    torch.cuda.default_generators = tuple(
        torch.Generator(f"cuda:{index}") for index in range(cuda.device_count())
    )
    library.fake_cuda_give_defaults(0)
    torch.version.cuda = "13.0"


class Cuda:
    """What `torch.cuda` has; each function does what its namesake there does."""

    def __init__(self, library: ctypes.CDLL, torch: Any) -> None:
        self.__library, self.__torch = library, torch

    def is_available(self) -> bool:
        return self.device_count() > 0

    def device_count(self) -> int:
        return min(int(os.environ.get("FAKE_CUDA_DEVICES", "0")), 16)

    def is_initialized(self) -> bool:
        return bool(self.__library.fake_cuda_initialised())

    def init(self) -> None:
        self._lazy_init()

    def _lazy_init(self) -> None:
        if self.__library.fake_cuda_initialise():
            raise RuntimeError(BAD_FORK)

    def current_device(self) -> int:
        self._lazy_init()
        return int(self.__library.fake_cuda_current_device())

    def set_device(self, device: Any) -> None:
        index = self._index(device)
        self._lazy_init()
        if str(index) in os.environ.get("FAKE_CUDA_OLD_DRIVER", "").split(","):
            raise RuntimeError(OLD_DRIVER)
        self.__torch.accelerator.set_device_index(index)

    def synchronize(self, device: Any = None) -> None:
        self.__torch.accelerator.synchronize(self._index(device))

    def current_stream(self, device: Any = None) -> Any:
        index = self._index(device)
        return self._stream(index, self.__library.fake_cuda_current_stream(index))

    def default_stream(self, device: Any = None) -> Any:
        return self._stream(self._index(device), 0)

    def _stream(self, index: int, number: int) -> Any:
        kind = int(self.__torch._C._autograd.DeviceType.CUDA)
        return self.__torch.cuda.Stream(stream_id=number, device_index=index, device_type=kind)

    def set_stream(self, stream: Any) -> None:
        if stream is not None:
            self.__torch.accelerator.set_stream(stream)

    def stream(self, stream: Any) -> Any:
        return InStream(self.__torch, stream)

    def cudart(self) -> Any:
        self._lazy_init()
        return Runtime(self.__library)

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return 9, 0

    def get_arch_list(self) -> list[str]:
        return ["sm_75", "sm_80", "sm_90"]

    def get_device_name(self, device: Any = None) -> str:
        return f"Fake GPU {self._index(device)}"

    def get_device_properties(self, device: Any = None) -> Any:
        index = self._index(device)
        return SimpleNamespace(
            name=self.get_device_name(index),
            major=9,
            minor=0,
            total_memory=self._memory(index)[1],
            multi_processor_count=1,
            pci_domain_id=0,
            pci_bus_id=index + 1,
            pci_device_id=0,
            uuid=f"00000000-0000-0000-0000-{index:012d}",
        )

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        used, capacity = self._memory(self._index(device))
        return capacity - used, capacity

    def memory_allocated(self, device: Any = None) -> int:
        return self._memory(self._index(device))[0]

    def empty_cache(self) -> None:
        pass

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, next(POOLS)

    def is_current_stream_capturing(self) -> bool:
        return bool(self.__torch.ops.fakecuda.graph_capturing())

    def _memory(self, index: int) -> tuple[int, int]:
        values = (ctypes.c_int64 * 2)()
        self.__library.fake_cuda_memory(index, values)
        return values[0], values[1]

    def _index(self, device: Any) -> int:
        if isinstance(device, int):
            return device
        index = None if device is None else self.__torch.device(device).index
        return self.current_device() if index is None else index


class InStream:
    """The context of a stream: what is started in it runs there. None is no stream."""

    def __init__(self, torch: Any, stream: Any) -> None:
        self._torch, self._stream = torch, stream

    def __enter__(self) -> Any:
        if self._stream is not None:
            self._before = self._torch.cuda.current_stream(self._stream.device)
            self._torch.cuda.set_stream(self._stream)
        return self._stream

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._torch.cuda.set_stream(self._before)


class Runtime:
    """What `torch.cuda.cudart()` gives: functions that return a code, 0 for success."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def cudaHostRegister(self, begin: int, size_bytes: int, flags: int) -> int:
        return int(self._library.fake_cuda_host_register(begin, size_bytes))

    def cudaHostUnregister(self, begin: int) -> int:
        return int(self._library.fake_cuda_host_unregister(begin))

    def cudaGetErrorString(self, code: int) -> str:
        words = {
            2: "out of memory",
            712: "part or all of the requested memory range is already mapped",
            801: "operation not supported",
        }
        return words.get(int(code), "unrecognized error code")


def stream_type(torch: Any) -> type:
    """Return what `torch.cuda.Stream` is: torch's stream of any device, made for a CUDA one."""

    class Stream(torch.Stream):  # type: ignore[misc]
        def __new__(cls, device: Any = None, priority: int = 0, **known: Any) -> Any:
            if known:
                return super().__new__(cls, **known)
            index = torch.cuda._index(device)
            return super().__new__(cls, device=f"cuda:{index}", priority=priority)

    return Stream


def event_type(torch: Any) -> type:
    """Return what `torch.cuda.Event` is: torch's event of any device, made for a CUDA one."""

    class Event(torch.Event):  # type: ignore[misc]
        def __new__(cls, enable_timing: bool = False, **more: Any) -> Any:
            return super().__new__(cls, device="cuda", enable_timing=enable_timing)

        def record(self, stream: Any = None) -> None:
            super().record(torch.cuda.current_stream() if stream is None else stream)

        def wait(self, stream: Any = None) -> None:
            super().wait(torch.cuda.current_stream() if stream is None else stream)

    return Event


def graph_type(torch: Any) -> type:
    """Return what `torch.cuda.CUDAGraph` is; `torch.cuda.graph` is torch's own, and takes it."""

    class CUDAGraph:
        def __init__(self, keep_graph: bool = False) -> None:
            self._graph, self._pool = torch.ops.fakecuda.graph_new(), None

        def __del__(self) -> None:
            torch.ops.fakecuda.graph_drop(self._graph)

        def register_generator_state(self, generator: Any) -> None:
            torch.ops.fakecuda.graph_register(self._graph, generator)

        def capture_begin(self, pool: Any = None, **modes: Any) -> None:
            self._pool = pool or torch.cuda.graph_pool_handle()
            torch.ops.fakecuda.graph_begin(self._graph)

        def capture_end(self) -> None:
            torch.ops.fakecuda.graph_end(self._graph)

        def replay(self) -> None:
            torch.ops.fakecuda.graph_replay(self._graph)

        def pool(self) -> Any:
            return self._pool

    return CUDAGraph
