"""Metric sinks by name. A new one: a file here, a line in `SINKS`, the contract test.

    --sinks NAMES --load_sinks--> classes --open_sinks(context)--> SinkGroup --> Recorder

Used by the parent. A sink's module is imported when it is asked for, before a run begins.
"""

from __future__ import annotations

import importlib
import inspect
import traceback

from galamp.core.errors import UserError, did_you_mean, not_installed
from galamp.core.settings import CLASS, is_user_code
from galamp.core.user_code import is_class, load, searching_here_for
from galamp.telemetry.sinks.base import MetricSink, SinkContext
from galamp.telemetry.sinks.group import FAILURES, SinkGroup, in_words

SINKS = {
    "jsonl": "galamp.telemetry.sinks.jsonl:JsonlSink",
    "monitor": "galamp.telemetry.sinks.monitor:MonitorSink",
    "tensorboard": "galamp.telemetry.sinks.tensorboard:TensorBoardSink",
    "wandb": "galamp.telemetry.sinks.wandb:WandbSink",
}
"""Name to `module:Class`, loaded when asked for."""

ALWAYS = "jsonl"
"""Written whatever is asked for: learning curves and resumed runs are made of it."""


def load_sinks(names: str) -> dict[str, type[MetricSink]]:
    """Return the classes of the sinks in a list such as `monitor,my_package.module:MySink`.

    `jsonl` comes first, whether it is listed or not.

    Raises:
        UserError: one cannot be imported, or is no `MetricSink`.
    """
    return {name: _load(name) for name in dict.fromkeys((ALWAYS, *names.split(",")))}


def open_sinks(names: str, context: SinkContext, *, begun: bool = False) -> SinkGroup:
    """Return the sinks of one start of a run.

    Args:
        names: as for `load_sinks`.
        context: what they are told of it.
        begun: whether the run has begun; a sink that cannot be opened is left out then.

    Raises:
        UserError: a sink cannot be loaded or, at the beginning of a run, be opened.
    """
    group, classes = SinkGroup(context.warn), load_sinks(names)
    opened: dict[str, MetricSink] = {}
    # The curve of a resumed run is cut by the sink that is always there: only once none refuses.
    for name, kind in sorted(classes.items(), key=lambda item: item[0] == ALWAYS):
        try:
            opened[name] = kind(group.context_for(context))
        except FAILURES as error:
            told = f"--sinks {name}: cannot be opened: {in_words(error)}"
            if not begun:
                group.add_all(opened)
                group.close()
                raise _with_traceback(f"{told}; correct it, or leave it out") from error
            context.warn(f"{told}; left out")
    group.add_all({name: opened[name] for name in classes if name in opened})
    return group


def _load(name: str) -> type[MetricSink]:
    """Return the class of one sink.

    Raises:
        UserError: see `load_sinks`.
    """
    what, found = f"--sinks {name}", None
    if name in SINKS:
        found = _own(what, name)
    elif is_user_code(name):
        with searching_here_for(name.partition(":")[0]):
            found = load(what, name, CLASS, is_class, noun="class")
    else:
        raise UserError(
            f"{what}: expected one of {', '.join(SINKS)}, or {CLASS}{did_you_mean(name, SINKS)}"
        )
    if not (isinstance(found, type) and issubclass(found, MetricSink)):
        raise UserError(
            f"--sinks {name}: expected a subclass of galamp.telemetry.sinks.base.MetricSink, it is "
            f"{found!r:.80}"
        )
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"--sinks {name}: the class has to define {lacking}, and does not")
    return found


def _own(what: str, name: str) -> object:
    """Return the class of a sink of galamp's own.

    Raises:
        UserError: a package that it needs is not installed.
    """
    module, _, kind = SINKS[name].partition(":")
    try:
        return getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        raise not_installed(what, name, error) from error


def _with_traceback(text: str) -> UserError:
    """Return what ends the command for the exception that is being handled, and where it arose."""
    told = UserError(text)
    told.details = traceback.format_exc()
    return told
