"""Shared memory: one block, divided into named, typed arrays; and wake-ups between processes.

The supervisor creates the block before it starts any child, and every child inherits it. The block
is a sealed memfd: it has no name, so nothing is left in /dev/shm however a process ends; it is not
limited by the size of /dev/shm; and all of its pages are reserved when it is created.

    supervisor: SharedArrays.create(specs) --spawn--> child: the same SharedArrays, mapped again

There are no locks. Each word has one writer, and counters hold the state. A `Wakeup` is only a
hint: the waiting process must read the counters itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import mmap
import os
import platform
import select
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from galamp.core.errors import UserError
from galamp.core.machine.memory import anonymous_file, available_bytes
from galamp.core.machine.numa import prefer_node

CACHE_LINE_BYTES = 64
PAGE_BYTES = mmap.PAGESIZE
WORDS_PER_LINE = CACHE_LINE_BYTES // 8
ATOMIC_LIBRARY = "libatomic.so.1"
"""A library of GCC, not of the C library: small installations may lack it."""


@dataclass(frozen=True)
class ArraySpec:
    """Name, shape and dtype of one shared array, and its initial value (`fill`; None: zeros).

    `near` is the rank of the learner that uses the array most: its memory should lie on the NUMA
    node of that learner.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: float | None = None
    near: int | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the array in bytes, without padding."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class SharedArrays:
    """Named arrays on one memfd; `arrays[name]` is a numpy view that all processes share."""

    def __init__(self, specs: Sequence[ArraySpec], fd: int) -> None:
        self.specs = tuple(specs)
        self._offsets, self.size_bytes = _layout(self.specs)
        self._memory = mmap.mmap(fd, self.size_bytes)
        self._fd = fd
        # A run may be started several times: the descriptor of an earlier start must be closed.
        weakref.finalize(self, os.close, fd).atexit = False
        self._views = {spec.name: self._view(spec) for spec in self.specs}
        self._page_locked: dict[str, int] = {}

    @classmethod
    def create(cls, specs: Sequence[ArraySpec], nodes: Sequence[int | None] = ()) -> SharedArrays:
        """Reserve and fill a new block.

        Args:
            specs: its arrays.
            nodes: the NUMA node of each learner, None where it does not matter.

        Raises:
            UserError: the machine has too little memory, or cannot share memory.
        """
        memory_fence()  # raises where this machine has no fence
        size_bytes = _layout(specs)[1]
        # Checked first: the kernel would kill other programs before it refused the reservation.
        free_bytes = available_bytes()
        if size_bytes > free_bytes:
            raise _refusal(size_bytes, f"{free_bytes / 2**20:,.0f} MiB are free")
        fd = anonymous_file("galamp")
        try:
            _prefer_nodes(fd, specs, nodes)
            os.posix_fallocate(fd, 0, size_bytes)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            block = cls(specs, fd)
        except OSError as error:
            os.close(fd)
            raise _refusal(size_bytes, str(error.strerror)) from None
        for spec in block.specs:
            if spec.fill is not None:
                block[spec.name].fill(spec.fill)
        return block

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._views[name]

    def words(self, name: str) -> memoryview:
        """Return an int64 array as a flat memoryview, which is faster to index than numpy.

        Reads and writes of one aligned word are atomic.
        """
        view = self._views[name]
        assert view.dtype == np.int64, f"{name} is {view.dtype}, words are int64"
        return memoryview(view.reshape(-1).data)

    def page_lock(self, name: str) -> int:
        """Page-lock an array, so that a GPU can copy from and to it directly.

        The driver refuses to register a byte twice, so an array is always registered as a whole,
        and once per process.

        Returns:
            0, or the error code of the CUDA runtime. After an error copies still work, but each one
            goes through a staging buffer, and the host waits for it.
        """
        if name not in self._page_locked:
            self._page_locked[name] = _register(self._views[name])
        return self._page_locked[name]

    def unlock_pages(self) -> None:
        """Undo every `page_lock`; for a process that continues after these arrays are unmapped.

        Otherwise the driver would treat later memory at the same addresses as these arrays.
        """
        for name, code in self._page_locked.items():
            if code == 0:
                _unregister(self._views[name])
        self._page_locked.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self.specs, reduction.DupFd(self._fd))

    def _view(self, spec: ArraySpec) -> npt.NDArray[Any]:
        start = self._offsets[spec.name]
        count = math.prod(spec.shape)
        flat = np.frombuffer(self._memory, np.dtype(spec.dtype), count, start)
        return flat.reshape(spec.shape)


def _attach(specs: tuple[ArraySpec, ...], fd: Any) -> SharedArrays:
    return SharedArrays(specs, fd.detach())


def _refusal(size_bytes: int, why: str) -> UserError:
    return UserError(
        f"shared memory of {size_bytes / 2**20:,.0f} MiB cannot be reserved ({why}): "
        "free memory, or use fewer --learners, --num-envs or --num-steps"
    )


def _layout(specs: Sequence[ArraySpec]) -> tuple[dict[str, int], int]:
    """Return each array's offset and the block's size, in bytes.

    Every array has its own cache lines, a large one its own pages.
    """
    offsets: dict[str, int] = {}
    end = 0
    for spec in specs:
        assert spec.name not in offsets, f"two shared arrays are named {spec.name}"
        unit = PAGE_BYTES if spec.size_bytes >= PAGE_BYTES else CACHE_LINE_BYTES
        offsets[spec.name] = -(-end // unit) * unit
        end = offsets[spec.name] + max(spec.size_bytes, 1)
    return offsets, -(-max(end, 1) // PAGE_BYTES) * PAGE_BYTES


def _prefer_nodes(fd: int, specs: Sequence[ArraySpec], nodes: Sequence[int | None]) -> None:
    """Place arrays of at least one page on the NUMA node of the learner that they are `near`.

    The file stores this policy for all pages that are reserved later, by any process.
    """
    offsets, size_bytes = _layout(specs)
    if all(node is None for node in nodes):
        return
    os.ftruncate(fd, size_bytes)
    with mmap.mmap(fd, size_bytes) as memory:
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for spec in specs:
            node = None if spec.near is None else nodes[spec.near]
            if node is not None and spec.size_bytes >= PAGE_BYTES:
                prefer_node(start + offsets[spec.name], spec.size_bytes, node)


def size_of(specs: Sequence[ArraySpec]) -> int:
    """Return the number of bytes of shared memory that `SharedArrays.create` needs for `specs`."""
    return _layout(specs)[1]


class Wakeup:
    """Wake-up between processes (an eventfd): `signal` wakes the process that waits, now or next.

    It stays usable when any process is killed.
    """

    def __init__(self, fd: int | None = None) -> None:
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self._fd = os.eventfd(0, flags) if fd is None else fd
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        weakref.finalize(self, os.close, self._fd).atexit = False

    def fileno(self) -> int:
        """Return the file descriptor, to poll several wake-ups at once."""
        return self._fd

    def signal(self) -> None:
        """Wake the waiting process; never blocks."""
        os.eventfd_write(self._fd, 1)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the next `signal`, at most `timeout_s`; then check the counters.

        Returns whether there was one.
        """
        signalled = bool(self._poll.poll(timeout_s * 1e3))
        if signalled:
            self.clear()
        return signalled

    def clear(self) -> None:
        """Discard the signals so far."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_wakeup, (reduction.DupFd(self._fd),)


def _attach_wakeup(fd: Any) -> Wakeup:
    return Wakeup(fd.detach())


def _fence(machine: str) -> Callable[[], None]:
    """Return the memory fence of a processor: it orders stores among stores, loads among loads.

    x86-64 keeps this order by itself, and every Python step is an opaque call to the compiler;
    other processors need a real fence. membarrier(2) is not suitable: its private command may
    return without a fence in a process with one thread, and its global command interrupts every
    core that runs a registered process.

    Args:
        machine: name of the processor, as in `platform.machine()`.
    """
    if machine in ("x86_64", "AMD64"):
        return lambda: None
    try:
        fence = ctypes.CDLL(ATOMIC_LIBRARY).atomic_thread_fence
    except (OSError, AttributeError):
        return _no_fence
    sequentially_consistent = 5
    return lambda: fence(sequentially_consistent)


def _no_fence() -> NoReturn:
    raise UserError(
        f"memory cannot be shared on {platform.machine()} without {ATOMIC_LIBRARY}: install the "
        "system's package libatomic1 (Debian, Ubuntu) or libatomic (Fedora, Alpine)"
    )


memory_fence = _fence(platform.machine())


def _register(array: npt.NDArray[Any]) -> int:
    """Register an array's memory with the CUDA runtime; return its error code, 0 for success."""
    import torch  # only learners on a GPU call this

    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    code = int(runtime.cudaHostRegister(array.ctypes.data, array.nbytes, 0))
    if code:
        # The runtime keeps its last error until it is read. torch reads it after every kernel
        # launch and would report this error for that kernel: this launch reads, and so clears, it.
        with contextlib.suppress(RuntimeError):
            torch.ones(1, device="cuda")
    return code


def _unregister(array: npt.NDArray[Any]) -> None:
    import torch

    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    runtime.cudaHostUnregister(array.ctypes.data)
