"""Checks of `galamp doctor` that need no torch: each returns its findings, and none waits.

Whatever the kernel does not say counts as no limit.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TextIO

from galamp.core.machine.cpu_quota import allowed_processors
from galamp.core.machine.machine import format_list, lacks_bf16, processor_flags, processor_name
from galamp.core.machine.memory import PROC, available_bytes
from galamp.core.machine.process_limits import least_room
from galamp.core.pip_commands import install_extra, pip_install
from galamp.environments.names import list_games
from galamp.tools.doctor.finding import Finding

GIB = 2**30
LEAST_MEMORY = 1 * GIB
"""What two learners of 16 Atari environments take, about."""
LEAST_DISK = 1 * GIB
LEAST_FILES = 1024
LEAST_TASKS = 256
BUSY = 0.5
"""Share of the processors from which on other programs are told of."""
NARROW, LOW = 80, 24
"""Columns and lines that the dashboard is made for."""
PTRACE_SCOPE = "sys/kernel/yama/ptrace_scope"
BY_PERMISSION = 1
"""Scope in which a process may be traced by the one that it names, as runs do."""
FORBIDDEN = 3
"""Scope in which not even root may trace, until the next boot."""


def processors() -> Iterable[Finding]:
    """Yield how many processors there are, whether a limit or others take their time."""
    numbers = sorted(os.sched_getaffinity(0))
    count, all_there_are = len(numbers), os.cpu_count() or len(numbers)
    text = f"{count} of {all_there_are}: {format_list(numbers)}"
    quota = allowed_processors()
    if quota is not None and quota < count:
        yield Finding(
            "processors", f"{text}; a control group allows the time of {quota:.3g}",
            "allow more (docker run --cpus), or give --learners a number up to that",
        )  # fmt: skip
    else:
        yield Finding("processors", text)
    try:
        load = os.getloadavg()[0]
    except OSError:  # no /proc/loadavg
        return
    fix = "end other programs for full speed" if load > BUSY * count else ""
    yield Finding("load", f"{load:.1f} in the last minute", fix)


def processor() -> Iterable[Finding]:
    """Yield the kind of processor, and what it computes with."""
    flags = processor_flags()
    vectors = next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "no avx2")
    bf16 = "no bf16: --precision bf16 would be slower" if lacks_bf16() else "bf16: --precision bf16"
    fix = "" if vectors != "no avx2" else "training is slow here: take another machine"
    yield Finding("processor", f"{processor_name()}, {vectors}, {bf16}", fix)


def memory() -> Iterable[Finding]:
    """Yield the free memory, within the limits of control groups."""
    free = available_bytes()
    fix = "end other programs, or raise the limit" if free < LEAST_MEMORY else ""
    yield Finding("memory", f"{free / GIB:.1f} GiB free", fix)


def files() -> Iterable[Finding]:
    """Yield the limit on open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = hard != resource.RLIM_INFINITY and hard < LEAST_FILES
    most = "any number" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    yield Finding("open files", f"{soft:,}, up to {most}", "raise it: ulimit -Hn" if few else "")


def processes() -> Iterable[Finding]:
    """Yield how many processes may still be started."""
    room = least_room()
    text = "no limit" if room is None else f"{room.tasks:,} more, by {room.limit}"
    few = room is not None and room.tasks < LEAST_TASKS
    yield Finding(
        "processes", text, "raise it: ulimit -u, or the limit of the container" if few else ""
    )


def tracing(proc: Path = PROC, *, root: bool | None = None) -> Iterable[Finding]:
    """Yield whether py-spy is here, and may read other processes of the user."""
    if not any(shutil.which("py-spy", path=path) for path in (None, Path(sys.executable).parent)):
        yield Finding("profiling", "py-spy is not installed", install_extra("profile"))
        return
    try:
        scope = int((proc / PTRACE_SCOPE).read_text())
    except (OSError, ValueError):
        scope = 0
    root = os.geteuid() == 0 if root is None else root
    if scope <= 0 or (root and scope < FORBIDDEN):
        yield Finding("profiling", "py-spy may read runs")
        return
    if scope == BY_PERMISSION:
        text = "galamp profile may read runs, which permit it (ptrace_scope 1)"
        yield Finding("profiling", text)
        return
    who, fix = "only root", "sudo sysctl kernel.yama.ptrace_scope=0, or sudo galamp profile"
    if scope == FORBIDDEN:
        who, fix = "nobody", "boot anew with a lower kernel.yama.ptrace_scope"
    yield Finding("profiling", f"the kernel lets {who} read runs (ptrace_scope {scope})", fix)


def terminal(
    stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> Iterable[Finding]:
    """Yield what the dashboard can show here."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Finding("terminal", "none: a run prints plain lines")
        return
    columns, lines = shutil.get_terminal_size()
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    colours = "no colours" if "NO_COLOR" in environment else _colours(environment)
    text = f"{columns} x {lines}, {encoding}, {colours}"
    fixes = []
    if "utf" not in encoding:
        fixes.append("curves need UTF-8: export LANG=C.UTF-8")
    if environment.get("TERM", "dumb") == "dumb":
        fixes.append("no dashboard on a dumb terminal: export TERM=xterm-256color")
    if columns < NARROW or lines < LOW:
        fixes.append(f"make it {NARROW} x {LOW} or larger")
    yield Finding("terminal", text, "; ".join(fixes))


def _colours(environment: Mapping[str, str]) -> str:
    if environment.get("COLORTERM") in ("truecolor", "24bit"):
        return "all colours"
    return "256 colours" if "256" in environment.get("TERM", "") else "few colours"


def games() -> Iterable[Finding]:
    """Yield how many Atari games there are."""
    count = len(list_games())
    fix = "" if count else f"ale-py brings them: {_anew('ale-py')}"
    yield Finding("Atari games", f"{count}", fix)


def _anew(package: str) -> str:
    """Return the command that installs the same version of a package once more."""
    from importlib.metadata import version

    return pip_install("--force-reinstall", "--no-deps", f"{package}=={version(package)}")


def disk(folder: Path = Path("runs")) -> Iterable[Finding]:
    """Yield the room for runs, and whether they can be written."""
    whole = folder.absolute()
    there = next(path for path in (whole, *whole.parents) if os.path.exists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "disk", f"{there} cannot be written to", "go to another folder", prevents=True
        )
        return
    free = shutil.disk_usage(there).free
    fix = "galamp prune, or another --run-dir" if free < LEAST_DISK else ""
    yield Finding("disk", f"{free / GIB:.1f} GiB free for {folder}", fix)


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    processors, processor, memory, files, processes, disk, games, terminal, tracing,
)  # fmt: skip
"""In the order in which they are shown."""
