"""Who may import whom, and what nobody may use; read from the sources, not from a run."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from galamp.cli.main import COMMANDS
from tests.support.loops import each

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "galamp"

MAY_IMPORT: dict[str, str] = {
    "core": "",
    "memory": "core",
    "environments": "core",
    "algorithms": "core",
    "gossip": "core memory",
    "workers": "core memory environments algorithms gossip",
    "storage": "core gossip.transport.publication",
    "supervision": "core memory environments algorithms gossip workers",
    "telemetry": "core memory gossip storage supervision",
    "training": "core memory environments algorithms gossip workers storage supervision telemetry",
    "tools": "core memory environments algorithms gossip workers storage supervision telemetry "
    "training",
    "cli": "core memory environments algorithms gossip workers storage supervision telemetry "
    "training tools",
}
"""Package -> the packages that its modules may import besides their own.

Everyone may import the root, which holds the version and imports nothing.
"""

MIXING = (
    "core gossip.topologies gossip.vectors gossip.outer_step gossip.transport.base "
    "gossip.transport.publication gossip.transport.publication_ring "
    "memory.control memory.status memory.versioned_slots"
)
"""What mixing may import: of transports their interface, no slot, no mailbox, no shared array."""

WITHIN: dict[str, str] = {
    "gossip.mixing": MIXING,
    "gossip.device_mixing": f"{MIXING} gossip.mixing",
    "gossip.cluster": "core memory gossip.cluster gossip.topologies.base gossip.transport.mailbox "
    "gossip.transport.publication gossip.transport.publication_ring",
    "gossip.topologies": "core gossip.topologies",
    "gossip.transport": "core memory gossip.transport gossip.topologies.base",
    "telemetry.sinks": "core storage telemetry.sinks",
    "telemetry.display": "core telemetry.display telemetry.snapshot",
    "tools.audit": "tools.audit tools.figures",
    "tools.bench": "tools.bench",
    "tools.chaos": "tools.chaos tools.audit tools.bench.processes tools.sweep.planned",
    "tools.compare": "tools.compare tools.plot tools.evaluation.references",
    "tools.doctor": "tools.doctor tools.bench.parts",
    "tools.evaluation": "tools.evaluation",
    "tools.export_logs": "tools.export_logs tools.run_folders.record",
    "tools.play": "tools.play tools.evaluation",
    "tools.export": "tools.export tools.evaluation",
    "tools.keys": "tools.keys",
    "tools.plot": "tools.plot tools.evaluation.references tools.figures",
    "tools.profile": "tools.profile",
    "tools.report": "tools.report tools.plot tools.run_folders",
    "tools.run_folders": "tools.run_folders",
    "tools.study": "tools.study tools.audit tools.bench.minatar tools.bench.runs "
    "tools.compare tools.evaluation tools.plot tools.run_folders.record tools.sweep",
    "tools.sweep": "tools.sweep tools.bench.processes tools.compare tools.plot "
    "tools.run_folders.record",
    "tools.topology": "tools.topology tools.figures",
    "tools.figures": "tools.figures",
}
"""Part of a package -> what it may import: of its own package, and of others if it names core."""

WHEN_ASKED_FOR = {
    ("", "tools.evaluation.agent"), ("", "cli.python.train"), ("", "telemetry.snapshot"),
    ("", "core.errors"),
}  # fmt: skip
"""What `galamp` offers to programs points upwards; it is imported when somebody calls for it."""

WITHOUT_PROCESSES = (
    "algorithms", "gossip.topologies", "telemetry.display.dashboard", "telemetry.display.render",
    "telemetry.display.panels", "telemetry.display.text", "telemetry.snapshot", "core.config",
    "core.errors", "supervision.plan", "supervision.devices",
)  # fmt: skip
WITHOUT_TORCH = (
    "gossip.topologies", "environments", "workers.simulator", "workers.child", "memory.rollouts",
    "memory.status", "memory.metrics", "memory.control", "memory.arrays", "memory.rollout_ports",
    "core.config", "core.errors", "core.failpoints", "core.seeding", "cli.main", "cli.run_config",
    "supervision.child", "gossip.cluster", "telemetry.display.render", "telemetry.display.panels",
    "telemetry.display.text", "telemetry.display.streams", "telemetry.snapshot",
    "telemetry.sinks", "training.control",
    *(command.module.removeprefix("galamp.") for command in COMMANDS.values()),
    "core.algorithm_config", "core.user_code", "algorithms.a2c_config",
)  # fmt: skip

LOCKS = {
    "Lock", "RLock", "Queue", "SimpleQueue", "JoinableQueue", "Event", "Semaphore",
    "BoundedSemaphore", "Barrier", "Manager", "SyncManager", "BaseManager", "Condition", "Pool",
    "Value", "Array", "SharedMemory", "ShareableList",
}  # fmt: skip

OTHERS = {"galamp", "tensorboard"}
"""Packages whose `Event` is something else."""

# Wall-clock time is for people to read; it jumps, so nothing is measured or waited for by it.
WALL_CLOCK = {"memory.metrics", "telemetry.recorder", "telemetry.sinks.base", "workers.child"}

THREADED = {
    "training.checkpointing", "tools.chaos.monitor", "gossip.cluster.outbox",
    "gossip.cluster.gloo_edge", "workers.update_thread",
}  # fmt: skip


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


@cache
def nodes(source: ast.AST) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(source))


def imports(node: ast.AST, at_once: bool = True) -> Iterator[Import]:
    """Yield what runs; what only a type checker sees is no import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):  # in which there is no import
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", at_once)
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(child, at_once and not later)


@cache
def imported_by(module: str) -> tuple[Import, ...]:
    return tuple(imports(tree(module)))


def own(name: str) -> str | None:
    """The module of galamp that importing `name` brings; None for others' and the root."""
    if name != "galamp" and not name.startswith("galamp."):
        return None
    inner = name.removeprefix("galamp").removeprefix(".")
    return inner if inner in MODULES else inner.rpartition(".")[0]


def belongs(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def direct(module: str) -> Iterator[tuple[str, bool]]:
    for name, at_once in imported_by(module):
        target = own(name)
        if target:
            yield target, at_once


def package_of(module: str) -> str:
    return module.partition(".")[0]


def allowed(module: str, target: str) -> bool:
    """Whether a module may import another of galamp."""
    own_package = package_of(module) == package_of(target)
    for part, names in WITHIN.items():
        if belongs(module, (part,)):
            wide = not own_package and "core" not in names
            return belongs(target, tuple(names.split())) or (wide and may_import(module, target))
    return own_package or may_import(module, target)


def may_import(module: str, target: str) -> bool:
    return belongs(target, tuple(MAY_IMPORT[package_of(module)].split()))


def test_every_package_has_its_row() -> None:
    assert {package_of(module) for module in MODULES} - {"", "__main__"} == set(MAY_IMPORT)
    assert {part for part in WITHIN if part not in MODULES} == set()


def test_packages_import_downwards_only() -> None:
    found = {(m, target, at_once) for m in MODULES for target, at_once in direct(m)}
    upward = {
        (m, target)
        for m, target, at_once in found
        if m != "__main__" and (m == "" or not allowed(m, target))
        if at_once or (m, target) not in WHEN_ASKED_FOR
    }
    assert upward == set()
    assert {(m, target) for m, target, at_once in found if not at_once} >= WHEN_ASKED_FOR


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("core.errors", "memory.arrays"),
        ("memory.control", "gossip.mixing"),
        ("environments.base", "memory.arrays"),
        ("algorithms.a2c", "memory.rollouts"),
        ("gossip.topologies.ring", "memory.arrays"),
        ("gossip.topologies.ring", "gossip.mixing"),
        ("gossip.mixing", "gossip.transport.shared_memory"),
        ("gossip.mixing", "gossip.transport.mailbox"),
        ("gossip.device_mixing", "gossip.transport.parameter_slots"),
        ("gossip.device_mixing", "memory.arrays"),
        ("workers.learner", "storage.checkpoint"),
        ("storage.checkpoint", "gossip.mixing"),
        ("supervision.child", "storage.disk"),
        ("telemetry.display.render", "telemetry.recorder"),
        ("telemetry.display.render", "storage.run_logs"),
        ("telemetry.recorder", "training.session"),
        ("telemetry.sinks.jsonl", "telemetry.recorder"),
        ("telemetry.sinks.jsonl", "supervision.layout"),
        ("training.train", "tools.audit.audit"),
        ("tools.bench.cli", "tools.audit.audit"),
        ("tools.audit.audit", "tools.chaos.record"),
        ("tools.audit.audit", "cli.main"),
    ],
)
def test_the_table_refuses(module: str, target: str) -> None:
    assert not allowed(module, target)


def test_files_import_one_another_in_no_circle() -> None:
    graph = {m: {target for target, _ in direct(m)} - {m} for m in MODULES if m}
    list(graphlib.TopologicalSorter(graph).static_order())


def uses(module: str, library: str) -> bool:
    """Whether a module imports `multiprocessing` or `torch.multiprocessing`, say."""
    return any(f".{library}." in f".{name}." for name, _ in imported_by(module))


@each("module", [m for m in sorted(MODULES) if belongs(m, WITHOUT_PROCESSES)])
def test_what_is_pure_imports_no_multiprocessing(module: str) -> None:
    assert not uses(module, "multiprocessing")


def test_the_search_finds_multiprocessing_where_it_is() -> None:
    assert uses("supervision.launching", "multiprocessing")
    assert uses("memory.arrays", "multiprocessing")
    assert uses("workers.learner", "torch")


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
        heavy = [name for name, at_once in imported_by(imported) if at_once]
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
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and node.attr in LOCKS:
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] not in OTHERS:
            yield from (f"{node.module}.{a.name}" for a in node.names if a.name in LOCKS)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            hidden = ("queues", "synchronize", "managers", "shared_memory", "pool")
            yield from (n for n in names if "multiprocessing" in n and n.endswith(hidden))


@each("module", sorted(MODULES))
def test_nothing_that_two_processes_can_lock(module: str) -> None:
    # Threads of a user's program may lock one another: what it starts are new programs.
    allowed = {"tools.evaluation.threads": 2, "cli.python.process": 1}.get(module, 0)
    assert list(locks(tree(module))) == ["threading.Lock"] * allowed


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
    yield from (node.func for node in nodes(source) if isinstance(node, ast.Call))


def named(node: ast.Attribute | ast.Name) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id


def test_only_who_goes_on_without_starts_threads() -> None:
    """Wherever one cannot start, for the limits on processes count threads, a run would end."""
    assert {module for module in MODULES if starts_threads(tree(module))} == THREADED


def tells_wall_clock(source: ast.AST) -> bool:
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns"):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            return True
    return False


def test_wall_clock_time_is_only_noted_for_people() -> None:
    assert {module for module in MODULES if tells_wall_clock(tree(module))} == WALL_CLOCK
