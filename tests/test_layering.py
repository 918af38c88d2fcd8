"""Who may import whom, and what nobody may use; read from the sources, not from a run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.loops import each

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "galamp"

# From the bottom up: a module imports only from lines above its own. A package's name alone is
# its __init__.
LAYERS = """
    errors curve isolation plain
    installation memory gpu_failures numa mps
    process_limits cpu_quota
    crashpoints options display.streams remote.wire remote
    flags config snapshot display storage evaluation display.text storage.disk
    storage.strict_json display.console storage.links storage.mounts
    storage.locks storage.inspection
    storage.rates storage.held
    budget machine_load deaths reaper
    probing gpu_trial
    gpus
    shm storage.identity parameters models forking seeding machine graphs
    placement launching
    plan worker remote.picture
    signals
    control metrics rollouts storage.runfolder storage.runlogs storage.checkpoint_format
    environments.base environments.protocols environments.checks gossip gossip.mailbox gossip.slots
    gossip.topologies.base algorithms.returns algorithms.rmsprop algorithms.tape
    algorithms.products
    algorithms.base algorithms.conv_tape
    algorithms.recorded
    gossip.publication environments.preflight environments.failures
    gossip.topologies.circulant gossip.topologies.metropolis gossip.topologies.from_file
    storage.gossiplog
    storage.checkpoint environments algorithms gossip.topologies gossip.journal gossip.schedule
    environments.atari environments.gymnasium environments.probe
    gossip.topologies.ring gossip.topologies.bidirectional_ring gossip.topologies.exponential
    gossip.topologies.one_peer_exponential gossip.topologies.bipartite_exponential
    gossip.topologies.complete gossip.topologies.torus gossip.topologies.random_pairs
    gossip.topologies.star gossip.topologies.independent
    algorithms.a2c gossip.vectors gossip.certificate gossip.radius state
    gossip.mixing gossip.measuring
    gossip.device_mixing
    gossip.exchange
    ports acting
    collector evaluation.scores evaluation.threads evaluation.trained
    simulator learner evaluation.playing
    preload
    display.panels
    display.render
    display.dashboard evaluation.scoreboard remote.ending remote.door
    display.closing remote.call
    remote.attach_command remote.scale_command
    evaluation.agent arena
    consensus notices
    recorder saving resizing post
    crew
    regroup former
    supervisor
    resuming summary
    course
    session
    training
    calibration dry_run
    evaluation.command
    evaluation.report
    study study.columns study.rounds study.krylov
    study.replay study.spectrum
    study.audit study.forecast
    study.audit_report study.plots study.drawing study.plan_of_graph
    study.wording study.png
    study.audit_command study.topology_command
    chaos chaos.schedule chaos.recovery chaos.machine chaos.invariants chaos.report
    chaos.injector
    chaos.watchman
    chaos.companion
    chaos.record
    chaos.command
    configuring
    cli
    __main__
    bench bench.processes bench.synthetic bench.exchanges bench.meters
    bench.parts bench.nvml
    bench.peer_scripts bench.peer_scripts.plain_loop bench.peer_scripts.sb3_a2c
    bench.peer_scripts.sample_factory_appo
    bench.runs
    bench.peers bench.tables bench.limit bench.starts bench.neighbour
    bench.gpu bench.gpu.steps
    bench.gpu.children bench.gpu.training
    bench.gpu.facts bench.gpu.trial bench.gpu.parity bench.gpu.profiling bench.gpu.learners
    bench.gpu.rates bench.gpu.chaos bench.gpu.pong
    bench.options bench.gpu.command
    bench.cli
    bench.__main__
"""
RANKS = {name: rank for rank, line in enumerate(LAYERS.splitlines()) for name in line.split()}

# `galamp eval`: the settings are light and come first, what they need is imported when asked for.
UPWARD_WHEN_ASKED_FOR = {("evaluation.command", "evaluation.report"), ("", "evaluation.agent")}

WITHOUT_PROCESSES = (
    "algorithms", "gossip.topologies", "models", "parameters", "display.dashboard",
    "display.render", "display.panels", "display.text", "snapshot", "config", "errors", "plan",
)  # fmt: skip
WITHOUT_TORCH = (
    "gossip.topologies", "environments", "simulator", "rollouts", "metrics", "control", "shm",
    "ports", "config", "errors", "crashpoints", "seeding", "cli", "worker", "evaluation.command",
    "display.render", "display.panels", "display.text", "display.streams", "snapshot", "remote",
)  # fmt: skip

LOCKS = {
    "Lock", "RLock", "Queue", "SimpleQueue", "JoinableQueue", "Event", "Semaphore",
    "BoundedSemaphore", "Barrier", "Manager", "SyncManager", "BaseManager", "Condition", "Pool",
    "Value", "Array", "SharedMemory", "ShareableList",
}  # fmt: skip

# Wall-clock time is for people to read; it jumps, so nothing is measured or waited for by it.
WALL_CLOCK = {"metrics", "recorder", "worker"}

THREADED = {"saving", "chaos.watchman"}


class Import(NamedTuple):
    """One import: the full name, and whether it happens when the module is imported."""

    name: str
    at_once: bool


def modules() -> dict[str, Path]:
    """Every module of the package by its name inside it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(node: ast.AST, at_once: bool = True) -> Iterator[Import]:
    """Yield what runs; what only a type checker sees is no import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", at_once)
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(child, at_once and not later)


def own(name: str) -> str | None:
    """The module of galamp that importing `name` brings; None for others' and the root."""
    if name != "galamp" and not name.startswith("galamp."):
        return None
    inner = name.removeprefix("galamp").removeprefix(".")
    return inner if inner in MODULES else inner.rpartition(".")[0]


def belongs(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def direct(module: str) -> Iterator[tuple[str, bool]]:
    for name, at_once in imports(tree(module)):
        target = own(name)
        if target:
            yield target, at_once


def test_every_module_has_its_layer() -> None:
    assert set(MODULES) - {""} == set(RANKS)


@each("module", sorted(MODULES))
def test_imports_point_one_way(module: str) -> None:
    rank = RANKS[module] if module else -1
    for target, at_once in direct(module):
        allowed = not at_once and (module, target) in UPWARD_WHEN_ASKED_FOR
        assert allowed or RANKS[target] < rank, f"{module} imports {target}"


def test_every_exception_is_needed() -> None:
    found = {(m, target) for m in MODULES for target, at_once in direct(m) if not at_once}
    assert found >= UPWARD_WHEN_ASKED_FOR


def uses(module: str, library: str) -> bool:
    """Whether a module imports `multiprocessing` or `torch.multiprocessing`, say."""
    return any(f".{library}." in f".{name}." for name, _ in imports(tree(module)))


@each("module", [m for m in sorted(MODULES) if belongs(m, WITHOUT_PROCESSES)])
def test_what_is_pure_imports_no_multiprocessing(module: str) -> None:
    assert not uses(module, "multiprocessing")


def test_the_search_finds_multiprocessing_where_it_is() -> None:
    assert uses("crew", "multiprocessing")
    assert uses("shm", "multiprocessing")
    assert uses("learner", "torch")


# Torch


@cache
def closure(module: str) -> frozenset[str]:
    """All modules of galamp that importing `module` imports at once, itself included."""
    found, queue = {module}, [module]
    while queue:
        for target, at_once in direct(queue.pop()):
            if at_once and target not in found:
                found.add(target)
                queue.append(target)
    return frozenset(found)


@each("module", [m for m in sorted(MODULES) if belongs(m, WITHOUT_TORCH)])
def test_torch_is_not_among_what_is_imported_at_once(module: str) -> None:
    for imported in closure(module):
        heavy = [name for name, at_once in imports(tree(imported)) if at_once]
        assert not any(name.partition(".")[0] == "torch" for name in heavy), imported


def test_simulators_and_topologies_leave_torch_alone_when_really_imported() -> None:
    names = [
        "galamp.workers.simulator",
        "galamp.environments.atari",
        "galamp.environments.gymnasium",
        *(f"galamp.{module}" for module in MODULES if belongs(module, ("gossip.topologies",))),
    ]
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.stdout == "False\n", ended.stderr


# Locks and clocks


def locks(source: ast.AST) -> Iterator[str]:
    """Yield every use of what two processes could lock, or what has a name in /dev/shm."""
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute) and node.attr in LOCKS:
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] != "galamp":
            yield from (f"{node.module}.{a.name}" for a in node.names if a.name in LOCKS)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            hidden = ("queues", "synchronize", "managers", "shared_memory", "pool")
            yield from (n for n in names if "multiprocessing" in n and n.endswith(hidden))


@each("module", sorted(MODULES))
def test_nothing_that_two_processes_can_lock(module: str) -> None:
    # Threads of a user's program, in which nothing is started, may lock one another.
    allowed = ["threading.Lock"] * 2 if module == "evaluation.threads" else []
    assert list(locks(tree(module))) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import multiprocessing as mp\nmp.Queue()",
        "context.Event()",
        "from multiprocessing import Lock",
        "from torch.multiprocessing import SimpleQueue",
        "from multiprocessing.shared_memory import SharedMemory",
        "import multiprocessing.managers",
    ],
)
def test_the_search_finds_locks(source: str) -> None:
    assert list(locks(ast.parse(source)))


def starts_threads(source: ast.AST) -> bool:
    names = {"Thread", "Timer", "ThreadPoolExecutor", "ThreadPool", "start_new_thread"}
    return any(isinstance(n, ast.Attribute | ast.Name) and named(n) in names for n in calls(source))


def calls(source: ast.AST) -> Iterator[ast.expr]:
    yield from (node.func for node in ast.walk(source) if isinstance(node, ast.Call))


def named(node: ast.Attribute | ast.Name) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id


def test_only_who_goes_on_without_starts_threads() -> None:
    """Wherever one cannot start, for the limits on processes count threads, a run would end."""
    assert {module for module in MODULES if starts_threads(tree(module))} == THREADED


def tells_wall_clock(source: ast.AST) -> bool:
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns"):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            return True
    return False


def test_wall_clock_time_is_only_noted_for_people() -> None:
    assert {module for module in MODULES if tells_wall_clock(tree(module))} == WALL_CLOCK
