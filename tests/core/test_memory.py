"""How much memory is free, on trees of files like those of the kernel, and in a real group."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from galamp.core.errors import UserError
from galamp.core.machine.memory import (
    UNLIMITED_BYTES,
    anonymous_file,
    anonymous_files,
    available_bytes,
    control_groups,
    out_of_memory_kills,
)
from tests.support.engine import DEADLINE_S, ROOT

MIB = 2**20
MACHINE = 8192 * MIB
V2 = ("memory.max", "memory.current", "memory.events")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")


class Tree:
    """A /proc and what is mounted, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.proc, self._folder = folder / "proc", folder
        (self.proc / "self").mkdir(parents=True)
        self.write("meminfo", f"MemTotal: 99999999 kB\nMemAvailable:   {MACHINE // 1024} kB\n")

    def write(self, name: str, text: str) -> None:
        (self.proc / name).write_text(text)

    def belongs_to(self, *lines: str) -> None:
        """Let the process be in these groups, as /proc/self/cgroup tells."""
        self.write("self/cgroup", "".join(line + "\n" for line in lines))

    def mount(self, place: str, kind: str, options: str = "rw", root: str = "/") -> Path:
        """Mount a hierarchy in the folder `place`."""
        path = self._folder / place
        path.mkdir(parents=True, exist_ok=True)
        told = str(path).replace(" ", "\\040")
        with (self.proc / "self" / "mountinfo").open("a") as file:
            file.write("22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw\n")
            file.write(f"31 23 0:28 {root} {told} rw,nosuid shared:4 - {kind} {kind} {options}\n")
        return path

    @property
    def available(self) -> int:
        return available_bytes(self.proc)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def group(
    folder: Path,
    names: tuple[str, str, str],
    limit: object,
    used: int = 0,
    stat: str = "",
    kills: int | None = None,
) -> Path:
    """Make a control group; amounts in MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit * MIB if isinstance(limit, int) else limit}\n")
    (folder / names[1]).write_text(f"{used * MIB}\n")
    (folder / "memory.stat").write_text(stat)
    if kills is not None:
        (folder / names[2]).write_text(f"low 0\noom_kill_disable 0\noom_kill {kills}\n")
    return folder


def stat(**amounts: int) -> str:
    """Lines of memory.stat; amounts in MiB."""
    return "".join(f"{name} {amount * MIB}\n" for name, amount in amounts.items())


# What is free


def test_without_control_groups_it_is_what_the_machine_has(tree: Tree) -> None:
    assert tree.available == MACHINE
    tree.belongs_to("0::/")
    assert tree.available == MACHINE


def test_a_container_at_the_root_of_its_namespace(tree: Tree) -> None:
    tree.belongs_to("0::/")
    group(tree.mount("cg", "cgroup2"), V2, 1000, 400, stat(anon=400))
    assert tree.available == 600 * MIB


@pytest.mark.parametrize(
    ("kept", "reclaimable"),
    [
        (stat(anon=100, file=890, inactive_file=800, active_file=90), 890),
        (stat(anon=100, inactive_file=800), 800),
        (stat(anon=100, active_file=800), 800),
        (stat(anon=100, slab_reclaimable=300, slab_unreclaimable=500), 300),
        # Shared memory is in `file` and `shmem`, and on the lists of anonymous memory.
        (stat(file=900, shmem=900, inactive_anon=900), 0),
        (stat(inactive_file=2000), 990),  # the kernel adds up later than it charges
    ],
)
def test_what_the_kernel_can_take_back_is_free(tree: Tree, kept: str, reclaimable: int) -> None:
    tree.belongs_to("0::/")
    group(tree.mount("cg", "cgroup2"), V2, 1000, 990, kept)
    assert tree.available == (10 + reclaimable) * MIB


@pytest.mark.parametrize("tight", ["job", "job/step", "job/step/task"])
def test_the_tightest_of_the_own_group_and_all_above_it_counts(tree: Tree, tight: str) -> None:
    tree.belongs_to("0::/job/step/task")
    mounted = tree.mount("cg", "cgroup2")
    for name in ("job", "job/step", "job/step/task"):
        group(mounted / name, V2, 500 if name == tight else "max", 100)
    group(mounted / "job/step/other", V2, 1)
    assert tree.available == 400 * MIB
    (chain,) = control_groups(tree.proc)
    found = [each.folder.relative_to(mounted).as_posix() for each in chain]
    assert found == ["job/step/task", "job/step", "job", "."]


def test_a_group_above_its_limit_has_nothing_and_below_a_huge_one_the_machine(tree: Tree) -> None:
    tree.belongs_to("0::/a")
    mounted = tree.mount("cg", "cgroup2")
    group(mounted / "a", V2, 100, 130)
    assert tree.available == 0
    group(mounted / "a", V2, 10**6, 130)
    assert tree.available == MACHINE


@pytest.mark.parametrize("high", ["max", 600, 900])
def test_above_memory_high_a_run_would_crawl(tree: Tree, high: object) -> None:
    tree.belongs_to("0::/")
    folder = group(tree.mount("cg", "cgroup2"), V2, 800, 100)
    (folder / "memory.high").write_text(f"{high * MIB if isinstance(high, int) else high}\n")
    assert tree.available == (500 if high == 600 else 700) * MIB
    (folder / "memory.max").write_text("max\n")
    assert tree.available == (MACHINE if high == "max" else (int(str(high)) - 100) * MIB)


def test_version_1_sums_over_the_groups_below(tree: Tree) -> None:
    tree.belongs_to("5:cpu,cpuacct:/else", "4:memory:/slurm/job_7", "1:name=systemd:/", "0::/")
    mounted = tree.mount("memory", "cgroup", "rw,memory")
    tree.mount("cpu", "cgroup", "rw,cpu,cpuacct")
    group(mounted, V1, 9223372036854771712, 7000)
    (mounted / V1[0]).write_text("9223372036854771712\n")
    group(mounted / "slurm", V1, 900, 800, stat(total_inactive_file=300, inactive_file=100))
    group(mounted / "slurm/job_7", V1, 600, 150)
    assert tree.available == 400 * MIB
    group(mounted / "slurm/job_7", V1, 600, 500, stat(total_active_file=50, cache=400))
    assert tree.available == 150 * MIB


def test_on_a_hybrid_system_each_hierarchy_counts(tree: Tree) -> None:
    tree.belongs_to("4:cpu,memory:/a", "0::/b")
    first = tree.mount("memory", "cgroup", "rw,cpu,memory")
    second = tree.mount("unified", "cgroup2")
    (second / "b").mkdir()
    group(first / "a", V1, 700)
    assert tree.available == 700 * MIB
    group(second / "b", V2, 300)
    assert tree.available == 300 * MIB


@pytest.mark.parametrize(
    ("root", "path", "inner"),
    [
        ("/docker/4711", "/docker/4711", ""),  # bound into a container without a namespace
        ("/docker/4711", "/docker/4711/init", "init"),
        ("/..", "/../sibling", "sibling"),  # moved out of its namespace after it was made
        ("/../..", "/", ""),  # mounted from outside: the names between are unknown
        ("/../..", "/../sibling", ""),
        ("/", "/deleted (deleted)", ""),
    ],
)
def test_the_own_group_is_found_below_what_is_mounted(
    tree: Tree, root: str, path: str, inner: str
) -> None:
    tree.belongs_to(f"0::{path}")
    group(tree.mount("with blank/cg", "cgroup2", root=root) / inner, V2, 77)
    assert tree.available == 77 * MIB


@pytest.mark.parametrize(
    ("root", "path"), [("/", "/../sibling"), ("/docker/1", "/docker/12"), ("/../x", "/")]
)
def test_a_mount_that_does_not_hold_the_own_group_says_nothing(
    tree: Tree, root: str, path: str
) -> None:
    tree.belongs_to(f"0::{path}")
    group(tree.mount("cg", "cgroup2", root=root), V2, 1, kills=3)
    assert tree.available == MACHINE
    assert out_of_memory_kills(tree.proc) == 0


GARBAGE = ["", "\0\xff", "max", "-5", "9" * 5000, "1 2", "1e9", "٣٤٥" * 20, "0x10"]


@pytest.mark.parametrize("text", GARBAGE)
def test_odd_files_are_not_counted(tree: Tree, text: str) -> None:
    tree.belongs_to("0::/a")
    mounted = tree.mount("cg", "cgroup2")
    folder = group(mounted / "a", V2, 100, 40)
    (folder / "memory.stat").write_text(f"inactive_file {text}\nactive_file\n{text}\n")
    (folder / "memory.events").write_text(f"oom_kill {text}\n")
    assert tree.available == 60 * MIB
    assert out_of_memory_kills(tree.proc) == 0
    (folder / "memory.current").write_text(text)
    assert tree.available == 100 * MIB, "a limit holds, whatever is used"
    (folder / "memory.max").write_text(text)
    assert tree.available == MACHINE


@pytest.mark.parametrize("name", ["self/cgroup", "self/mountinfo", "meminfo"])
@pytest.mark.parametrize(
    "text", ["", "\n\n", ":", "::::", " - ", "a - cgroup2", "1 2 3 / \\000\\777 - cgroup2", "\0"]
)
def test_odd_lists_never_raise(tree: Tree, name: str, text: str) -> None:
    tree.belongs_to("0::/a")
    group(tree.mount("cg", "cgroup2") / "a", V2, 100)
    tree.write(name, text)
    assert tree.available in (100 * MIB, MACHINE)
    assert out_of_memory_kills(tree.proc) == 0


def test_where_nothing_can_be_read_the_kernel_decides(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) == UNLIMITED_BYTES
    assert out_of_memory_kills(tmp_path) == 0
    for name in ("meminfo", "self/cgroup", "self/mountinfo"):
        (tmp_path / name).mkdir(parents=True)
    assert available_bytes(tmp_path) == UNLIMITED_BYTES


# Who was ended


def test_kills_are_those_of_the_own_group(tree: Tree) -> None:
    tree.belongs_to("7:memory:/a/b", "0::/c")
    first, second = tree.mount("m", "cgroup", "rw,memory"), tree.mount("u", "cgroup2")
    (second / "c").mkdir()
    group(first / "a", V1, "max", kills=9)
    group(first / "a/b", V1, "max", kills=2)
    assert out_of_memory_kills(tree.proc) == 2
    group(second / "c", V2, "max", kills=5)
    (first / "a/b" / V1[2]).unlink()
    assert out_of_memory_kills(tree.proc) == 5
    (second / "c" / V2[2]).unlink()
    assert out_of_memory_kills(tree.proc) == 0, "the whole job's are not this run's"


# A real group

IN_GROUP = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from galamp.core.machine import memory
file, group, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
(group / "cgroup.procs").write_text(str(os.getpid()))
def free(low, high):
    until_s = time.monotonic() + {DEADLINE_S / 3}
    while True:
        (own,) = [chain[0] for chain in memory.control_groups() if chain[0].folder == group]
        found, least = own.free_bytes() // 2**20, memory.available_bytes() // 2**20
        if low < found <= high and least <= found + 1 or time.monotonic() > until_s:
            print(found, least)
            return found
        time.sleep(0.05)
before = free(limit - 48, limit)
with open(file, "wb") as written:
    for _ in range(96):
        written.write(bytes(2**20))
    written.flush()
    os.fsync(written.fileno())
with open(file, "rb", buffering=0) as read:
    while read.read(2**20):  # not at once: an allocator may keep so much memory once it was used
        pass
cached = free(before - 48, limit)
fd = memory.anonymous_file("test")
os.posix_fallocate(fd, 0, 64 * 2**20)
free(cached - 96, cached - 49)
print(memory.out_of_memory_kills())
"""
"""A process of a group of its own: what is free there in MiB, and for the process, three times.

Others change what the machine has, but nothing in the group. The kernel adds up what is used later
than it charges it, above all where it is busy: so each number is read until it is as expected, or
too long has passed.
"""


@contextlib.contextmanager
def real_group(limit_bytes: int) -> Iterator[Path]:
    """Make a control group of so much memory, below this process's own."""
    chains = control_groups()
    if not chains:
        pytest.skip("this machine has no control groups that limit memory")
    own = max((chain[0] for chain in chains), key=lambda each: each.kind == "cgroup")
    inner = own.folder / f"galamp-test-{os.getpid()}"
    name = V1[0] if own.kind == "cgroup" else V2[0]
    try:
        inner.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        try:
            (inner / name).write_text(str(limit_bytes))
        except OSError as error:
            pytest.skip(f"no control group can be limited here: {error}")
        yield inner
    finally:
        inner.rmdir()


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return max((len(at), kind) for _, at, kind, *_ in mounts if path.is_relative_to(at))[1]


@pytest.mark.real
def test_in_a_real_group_files_are_free_and_shared_memory_is_not(tmp_path: Path) -> None:
    limit = 512
    if available_bytes() < 4 * limit * MIB:
        pytest.skip("too little memory to tell this group's from the machine's")
    if file_system(tmp_path) in ("tmpfs", "ramfs"):
        pytest.skip("files here are memory")
    with real_group(limit * MIB) as inner:
        words = [sys.executable, "-c", IN_GROUP, str(tmp_path / "file"), str(inner), str(limit)]
        ended = subprocess.run(words, text=True, capture_output=True, timeout=2 * DEADLINE_S)
    if "cgroup.procs" in ended.stderr:
        pytest.skip(f"no process may enter a control group here: {ended.stderr.splitlines()[-1]}")
    assert ended.returncode == 0, ended.stderr
    *told, kills = map(int, ended.stdout.split())
    before, cached, shared = told[::2]
    assert limit - 48 < before <= limit
    assert before - cached < 48, "96 MiB of a file's pages count as used"
    assert 48 < cached - shared < 96, "64 MiB of shared memory do not count as used"
    for own, least in zip(told[::2], told[1::2], strict=True):
        assert least <= own + 1, "the group's limit is not its process's"
    assert kills == 0


# Memory without a name


def test_it_can_be_sealed_and_is_not_inherited() -> None:
    fd = anonymous_file("test")
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_GROW
        assert not os.get_inheritable(fd)
        release = tuple(map(int, os.uname().release.split(".")[:2]))
        assert not os.fstat(fd).st_mode & 0o111 or release < (6, 3), "it may be executed"
    finally:
        os.close(fd)


def kernel(*, knows: bool, demands: bool) -> Callable[[str, int], int]:
    """`memfd_create` of a kernel that knows MFD_NOEXEC_SEAL, or demands it by a sysctl."""

    def create(_: str, flags: int) -> int:
        if flags & 8 and not knows:
            raise OSError(errno.EINVAL, "Invalid argument")
        if demands and not flags & 8:
            raise PermissionError(errno.EACCES, "Permission denied")
        return flags

    return create


@pytest.mark.parametrize(("knows", "demands"), [(True, False), (True, True), (False, False)])
def test_it_is_made_by_any_kernel(
    monkeypatch: pytest.MonkeyPatch, knows: bool, demands: bool
) -> None:
    monkeypatch.setattr(os, "memfd_create", kernel(knows=knows, demands=demands))
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    assert anonymous_file("test") == (flags | 8 if knows else flags)


def test_of_several_all_are_made_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has no more descriptors would have fewer still with each try."""
    create, made = os.memfd_create, list[int]()

    def refuse(name: str, flags: int) -> int:
        if name == "second":
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(create(name))
        return made[-1]

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(UserError, match="Too many open files"):
        anonymous_files("first", "second")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(*made)
    for file in anonymous_files("first", "third"):
        os.close(file)


def test_other_refusals_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def refuse(_: str, flags: int) -> int:
        tries.append(flags)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(UserError, match=r"memfd_create: Too many open files\): allow it, "):
        anonymous_file("test")
    assert len(tries) == 1
