"""One compute thread for every test and all that it starts: two cores, many processes.

And two marks: `real` for every test that starts real runs, and `quick` for those of
`bin/test --fast`: no real run, no dear module, and of a test with many cases the first.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import signal
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from galamp.core import installation
from galamp.core.errors import UserError
from tests.support import engine
from tests.support.signals import handling
from tests.support.variables import give_back

os.environ["OMP_NUM_THREADS"] = "1"

# Whoever starts the tests in the background may ignore signals; children would inherit that, and
# a run leaves ignored signals ignored.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)

NOT_QUICK = {"real", "slow", "timing"}

DEAR = tuple(
    f"tests/{name}"
    for name in (
        # Emulators, frame by frame.
        "environments/test_environments.py",
        "environments/test_consoles.py",
        "tools/test_evaluate.py",
        "tools/test_record.py",
        # Trainings, to what is learned or to the last bit.
        "algorithms/test_ppo.py",
        "algorithms/test_pqn.py",
        "algorithms/test_recurrent.py",
        "algorithms/test_vtrace.py",
        "system/test_lock_step.py",
        "system/test_lock_step_algorithms.py",
        # Figures and what loads the libraries of others.
        "tools/test_audit.py",
        "tools/test_compare.py",
        "tools/test_export.py",
        "tools/test_plot.py",
        "tools/test_sweep_search.py",
        # Hundreds of drawn examples, or all interleavings.
        "fuzz/",
        "models/",
        "gossip/test_certificate.py",
        "gossip/test_topologies.py",
    )
)
"""Modules whose tests take most of the seconds of those that start no run."""

# How long an example takes is the machine's affair.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start real runs and the quick ones, before any are left out for marks."""
    starters = {getattr(engine, name) for name in engine.STARTERS}
    tried = set()
    for item in items:
        if isinstance(item, pytest.Function) and starters & reached(item.function):
            item.add_marker(pytest.mark.real)
        name = item.nodeid.partition("[")[0]
        if name in tried or name.startswith(DEAR) or not NOT_QUICK.isdisjoint(marks_of(item)):
            continue
        tried.add(name)
        item.add_marker(pytest.mark.quick)


def pytest_configure(config: pytest.Config) -> None:
    """Keep the environment as it is while tests run from it: workers leave that to the first."""
    if hasattr(config, "workerinput"):
        return
    holding = installation.held(["tests"])
    try:
        holding.__enter__()
    except UserError as error:
        raise pytest.UsageError(str(error)) from None
    config.add_cleanup(lambda: holding.__exit__(None, None, None))


def pytest_collection_finish() -> None:
    """Leave out what is loaded by now, as it stays, whenever garbage is looked for."""
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test start real runs only if it is marked so."""
    engine.allowed = item.get_closest_marker("real") is not None


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Fail a test that leaves signals handled in another way: later ones would not hear theirs.

    What Python can give back is given back, so that it is this test alone that fails.
    """
    before = handling()
    yield
    changed = before.changes(handling())
    if changed:
        before.give_back()
    assert not changed, changed


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """Give variables back: a command in this process may set some, which children inherit."""
    before = dict(os.environ)
    yield
    give_back(os.environ, before)


def marks_of(item: pytest.Item) -> set[str]:
    """The names of a test's marks."""
    return {mark.name for mark in item.iter_markers()}


@functools.cache
def reached(function: Callable[..., Any]) -> set[Callable[..., Any]]:
    """The functions and classes of the tests that a test names, and those that these name."""
    found: set[Callable[..., Any]] = set()
    queue = [function]
    while queue:
        inner = inspect.unwrap(queue.pop())
        if isinstance(inner, FunctionType):
            new = named_in(inner.__code__, inner.__globals__) - found
            found |= new
            queue += new
    return found


def named_in(code: CodeType, known: dict[str, Any]) -> set[Callable[..., Any]]:
    """What a function's code names, in its inner functions too, directly or as `module.name`."""
    values = [known[name] for name in code.co_names if name in known]
    for module in [value for value in values if isinstance(value, ModuleType)]:
        values += [vars(module)[name] for name in code.co_names if name in vars(module)]
    found = {each for each in values if isinstance(each, FunctionType | type) and ours(each)}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= named_in(inner, known)
    return found


def ours(value: Callable[..., Any]) -> bool:
    """Whether a function or class is one of the tests' own."""
    return value.__module__.startswith("tests.")
