"""Shared memory: where arrays lie, who sees them, what is refused; and wake-ups."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import math
import mmap
import multiprocessing
import os
import platform
import resource
import runpy
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galamp.core.errors import UserError
from galamp.core.machine.numa import prefer_node
from galamp.gossip.topologies import make_topology
from galamp.gossip.transport.parameter_slots import gossip_specs
from galamp.memory import arrays as shm
from galamp.memory.arrays import ArraySpec, SharedArrays, Wakeup
from galamp.memory.learner_state import StateSlots
from galamp.memory.rollouts import RolloutRing, RolloutShape
from tests.support import children

LINE_BYTES = 64
SPECS = (
    ArraySpec("bytes", (3, 5), "uint8", fill=7),
    ArraySpec("words", (4, 3), "int64"),
    ArraySpec("vector", (1000,), "float32", fill=math.nan),
    ArraySpec("pages", (mmap.PAGESIZE + 1,), "uint8", fill=9),
    ArraySpec("empty", (0, 4), "float32"),
    ArraySpec("flags", (2,), "bool", fill=True),
)


def span(arrays: SharedArrays, name: str) -> tuple[int, int]:
    """First and one past last address of an array."""
    view = arrays[name]
    address = view.__array_interface__["data"][0]
    return address, address + view.nbytes


def assert_well_placed(arrays: SharedArrays) -> None:
    """Every array is where its writer alone touches its cache lines."""
    ends = []
    for spec in arrays.specs:
        start, end = span(arrays, spec.name)
        assert start % (mmap.PAGESIZE if end - start >= mmap.PAGESIZE else LINE_BYTES) == 0
        ends.append((start, end))
    used = [-(-end // LINE_BYTES) for _, end in sorted(e for e in ends if e[0] < e[1])]
    starts = [start // LINE_BYTES for start, _ in sorted(e for e in ends if e[0] < e[1])]
    assert all(used[i] <= starts[i + 1] for i in range(len(used) - 1)), "arrays overlap"


# Layout


def test_arrays_have_the_shape_type_and_fill_of_their_spec() -> None:
    arrays = SharedArrays.create(SPECS)
    for spec in SPECS:
        view = arrays[spec.name]
        assert view.shape == spec.shape
        assert view.dtype == np.dtype(spec.dtype)
        assert view.nbytes == spec.size_bytes
        assert view.flags.writeable
    assert (arrays["bytes"] == 7).all()
    assert (arrays["words"] == 0).all()
    assert np.isnan(arrays["vector"]).all()
    assert (arrays["pages"] == 9).all()
    assert arrays["flags"].all()


def test_arrays_lie_on_their_own_cache_lines_and_pages() -> None:
    assert_well_placed(SharedArrays.create(SPECS))


SHAPES = st.lists(st.integers(0, 80), min_size=1, max_size=3).map(tuple)
DTYPES = st.sampled_from(["uint8", "int64", "float32", "bool"])


@given(st.lists(st.tuples(SHAPES, DTYPES), min_size=1, max_size=8))
def test_any_arrays_are_well_placed_and_independent(kinds: list[tuple[Any, str]]) -> None:
    specs = [ArraySpec(str(i), shape, dtype) for i, (shape, dtype) in enumerate(kinds)]
    arrays = SharedArrays.create(specs)
    assert_well_placed(arrays)
    for i, spec in enumerate(specs):
        arrays[spec.name].fill(i % 2 if spec.dtype == "bool" else i + 1)
    for i, spec in enumerate(specs):
        assert (arrays[spec.name] == (i % 2 if spec.dtype == "bool" else i + 1)).all()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(AssertionError, match="two shared arrays are named a"):
        SharedArrays.create([ArraySpec("a", (1,), "uint8"), ArraySpec("a", (2,), "uint8")])


def test_words_are_the_same_memory() -> None:
    arrays = SharedArrays.create(SPECS)
    words = arrays.words("words")
    assert len(words) == 12
    words[7] = -5
    assert arrays["words"][2, 1] == -5
    arrays["words"][3, 2] = 2**62
    assert words[11] == 2**62


def test_only_whole_numbers_of_eight_bytes_are_words() -> None:
    with pytest.raises(AssertionError, match="vector is float32"):
        SharedArrays.create(SPECS).words("vector")


# The block


def test_a_spawned_child_sees_the_same_memory_both_ways() -> None:
    arrays = SharedArrays.create(
        [
            ArraySpec("question", (100,), "float32"),
            ArraySpec("answer", (100,), "float32", fill=math.nan),
            ArraySpec("report", (8,), "int64", fill=-1),
        ]
    )
    question, reply = Wakeup(), Wakeup()
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=children.answer, args=(arrays, question, reply))
    child.start()
    try:
        # Written after the child was started: it sees more than a copy.
        arrays["question"][:] = np.arange(100)
        question.signal()
        reply.wait(children.DEADLINE_S)
        words = arrays.words("report")
        assert words[children.PID] == child.pid
        assert (arrays["answer"] == 2 * np.arange(100)).all()
        assert words[children.SEALS] & fcntl.F_SEAL_SHRINK
        assert words[children.NAMED] == 0
        child.join(children.DEADLINE_S)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
        child.close()


def test_the_memory_has_no_name() -> None:
    arrays = SharedArrays.create(SPECS)
    assert os.readlink(f"/proc/self/fd/{arrays._fd}").startswith("/memfd:galamp")
    assert children.shared_names() == []


def test_the_memory_cannot_be_taken_away_and_is_all_there() -> None:
    arrays = SharedArrays.create(SPECS)
    assert os.fstat(arrays._fd).st_blocks * 512 >= arrays.size_bytes, "pages are not reserved"
    for size_bytes in (2 * arrays.size_bytes, arrays.size_bytes - mmap.PAGESIZE, 0):
        with pytest.raises(PermissionError):
            os.ftruncate(arrays._fd, size_bytes)


def test_the_descriptor_is_not_inherited_by_other_programs() -> None:
    assert not os.get_inheritable(SharedArrays.create(SPECS)._fd)
    assert not os.get_inheritable(Wakeup().fileno())


@contextlib.contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """A limit of the kernel that refuses memory without filling the machine's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_memory_that_is_refused_is_the_users_to_solve() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with (
        largest_file(2**20),
        pytest.raises(UserError, match=r"3 MiB .* fewer --learners, --num-envs") as caught,
    ):
        SharedArrays.create([ArraySpec("big", (3 * 2**20,), "uint8")])
    assert "\n" not in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is left open"


def test_more_than_the_machine_has_is_refused_before_any_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reserve(*_: int) -> None:
        raise AssertionError("asked the kernel for a pebibyte: it would fill the machine")

    # Without this stand-in a failure of the test would end other processes of the machine.
    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with pytest.raises(UserError, match=r"MiB are free.* fewer --learners, --num-envs"):
        SharedArrays.create([ArraySpec("huge", (2**50,), "uint8")])


@pytest.mark.parametrize("why", [errno.EACCES, errno.EMFILE, errno.ENOSYS])
def test_a_system_without_such_memory_is_told_of(monkeypatch: pytest.MonkeyPatch, why: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(
        UserError, match=rf"\({'memfd_create: ' + os.strerror(why)}\).*ulimit -n"
    ) as told:
        SharedArrays.create(SPECS)
    assert "\n" not in str(told.value)


def test_memory_that_cannot_be_mapped_is_the_users_to_solve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: int) -> mmap.mmap:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("galamp.memory.arrays.mmap.mmap", refuse)
    with pytest.raises(UserError, match=r"Cannot allocate memory.* fewer --learners"):
        SharedArrays.create(SPECS)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is left open"


# Other processors


def no_library(_: str) -> None:
    raise OSError("libatomic.so.1: cannot open shared object file: No such file or directory")


def another_library(_: str) -> object:
    return object()


@pytest.mark.parametrize("machine", ["aarch64", "armv7l", "riscv64", "ppc64le"])
@pytest.mark.parametrize("library", [no_library, another_library])
def test_without_a_fence_only_shared_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, machine: str, library: Callable[[str], object]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(ctypes, "CDLL", library)
    imported = runpy.run_path(shm.__file__, run_name="galamp.memory.arrays")
    with pytest.raises(UserError, match=f"{machine} without libatomic.so.1.*libatomic1") as told:
        imported["SharedArrays"].create(SPECS)
    assert "\n" not in str(told.value)


def test_with_the_library_other_processors_share_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    library = types.SimpleNamespace(atomic_thread_fence=asked.append)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library if "atomic" in name else None)
    imported = runpy.run_path(shm.__file__, run_name="galamp.memory.arrays")
    imported["SharedArrays"].create(SPECS)
    assert set(asked) == {5}, "memory_order_seq_cst of <stdatomic.h>"


def test_the_library_has_what_is_asked_of_it() -> None:
    try:
        ctypes.CDLL(shm.ATOMIC_LIBRARY)
    except OSError as error:
        pytest.skip(str(error))
    shm._fence("aarch64")()


# Wake-ups


def waited(wakeup: Wakeup, timeout_s: float) -> float:
    """Seconds that a wait took."""
    began_s = time.monotonic()
    wakeup.wait(timeout_s)
    return time.monotonic() - began_s


def is_set(wakeup: Wakeup) -> bool:
    """Whether a wait would end at once; leaves it as it is."""
    return bool(wakeup._poll.poll(0))


def test_a_signal_before_the_wait_is_not_lost() -> None:
    wakeup = Wakeup()
    wakeup.signal()
    assert waited(wakeup, 60.0) < 30.0
    assert not is_set(wakeup), "one signal, one wake-up"


def test_many_signals_are_one_wake_up() -> None:
    wakeup = Wakeup()
    for _ in range(100):
        wakeup.signal()
    assert wakeup.wait(60.0)
    assert not is_set(wakeup)
    assert not wakeup.wait(0.0)


@pytest.mark.parametrize("timeout_s", [0.0, 0.0004, 0.03])
def test_a_wait_ends_after_its_timeout_and_not_before(timeout_s: float) -> None:
    passed_s = waited(Wakeup(), timeout_s)
    assert timeout_s <= passed_s < timeout_s + 30.0


def test_cleared_signals_are_forgotten_and_clearing_never_blocks() -> None:
    wakeup = Wakeup()
    wakeup.clear()
    wakeup.signal()
    assert is_set(wakeup)
    wakeup.clear()
    assert not is_set(wakeup)


# NUMA

GET_MEMPOLICY, OF_AN_ADDRESS = 239, 2


def policy_at(address: int) -> tuple[int, int]:
    """Return the kernel's policy for the page there, and the mask of its nodes."""
    mode, mask = ctypes.c_int(), (ctypes.c_ulong * 16)()
    words = (ctypes.byref(mode), mask, ctypes.c_ulong(1025), ctypes.c_void_p(address))
    if ctypes.CDLL(None).syscall(GET_MEMPOLICY, *words, ctypes.c_ulong(OF_AN_ADDRESS)) != 0:
        pytest.skip("this kernel tells no policy of memory")
    return mode.value, mask[0]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls of x86-64")
def test_an_array_lies_on_the_node_of_the_learner_that_it_is_near() -> None:
    """Whoever maps it: the memory itself remembers."""
    specs = [
        ArraySpec("a", (8192,), "uint8", near=0),
        ArraySpec("b", (8192,), "uint8", near=1),
        ArraySpec("small", (9,), "uint8", near=0),
        ArraySpec("everyone's", (8192,), "uint8"),
    ]
    arrays = SharedArrays.create(specs, nodes=[0, None])
    preferred = [policy_at(arrays[spec.name].ctypes.data) == (1, 1) for spec in specs]
    if not prefer_node(arrays["a"].ctypes.data, 1, 0):
        pytest.skip("this kernel takes no policy of memory")
    assert preferred == [True, False, False, False]
    assert os.fstat(arrays._fd).st_blocks * 512 >= arrays.size_bytes, "pages are not reserved"


@pytest.mark.parametrize("node", [-1, 1 << 20, 1000])
def test_a_node_that_is_none_changes_nothing(node: int) -> None:
    arrays = SharedArrays.create([ArraySpec("a", (8192,), "uint8", near=0)])
    assert not prefer_node(arrays["a"].ctypes.data, 8192, node)


def test_every_learners_arrays_are_near_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sockets: what a learner reads and writes most is asked for on its own."""
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(shm, "prefer_node", lambda *words: asked.append(words))
    topology, sizes = make_topology("ring", 2), {"parameters": 5000}
    shape = RolloutShape(5, 4, 1, (4, 84, 84), "uint8")
    specs = gossip_specs(topology, 5000)
    for rank in range(2):
        specs += RolloutRing.specs(rank, shape) + StateSlots.specs(rank, sizes)
    SharedArrays.create(specs, nodes=[1, 0])
    by_node = {node: sorted(size for _, size, n in asked if n == node) for node in (0, 1)}
    assert by_node[0] == by_node[1]
    assert len(by_node[0]) == 3
    assert by_node[0][-1] == 2 * 6 * 4 * 4 * 84 * 84, "the observations"
