"""`galamp run --dry-run`: the plan of a run, without starting it or writing anything.

    RunConfig --training.survey--> RunContext, ResolvedRun --facts, table--> text or JSON

The environment is probed, as before every run: network and memory depend on it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.table import Table

from galamp.cli.config_file import full_name, toml_of
from galamp.cli.layers import Sources
from galamp.core.algorithm_config import lr_in_words
from galamp.core.config import RunConfig, to_dict, value_in
from galamp.core.machine.machine import Machine, format_list, quota_text
from galamp.core.machine.memory import available_bytes
from galamp.core.machine.mps import mps_folder, mps_in_words
from galamp.core.settings import settings, shown
from galamp.environments.base import EnvironmentSpec
from galamp.memory.arrays import size_of
from galamp.storage.run_folder import StoredChoices
from galamp.supervision.devices import left_out
from galamp.supervision.layout import array_specs
from galamp.supervision.plan import LearnerPlan, Plan
from galamp.telemetry.display.console import plain_table, table_console
from galamp.telemetry.display.streams import print_safely
from galamp.training.resolve import ResolvedRun
from galamp.training.session import RunContext
from galamp.training.train import survey


def dry_run(config: RunConfig, kept: StoredChoices, sources: Sources) -> None:
    """Print the plan on standard output, as JSON with `--json`.

    Args:
        config: the settings.
        kept: stored choices that a resumed run keeps.
        sources: where each setting is from that is no default.

    Raises:
        UserError: the settings, the machine or the folder have to be changed first.
    """
    context, resolved = survey(config, kept)
    if config.report.json:
        named = {full_name(*key): source for key, source in sources.items()}
        plan = planned(context, resolved) | {"sources": named}
        print_safely(json.dumps(plan) + "\n", sys.stdout)
        return
    console = table_console(sys.stdout)
    if sources:
        console.print(settings_table(config, sources))
        console.print()
    for name, value in facts(context, resolved):
        console.print(f"{name:<15}{value}", soft_wrap=True)
    console.print(learners_table(context, resolved))


def facts(context: RunContext, resolved: ResolvedRun) -> list[tuple[str, str]]:
    """Return what is the same for all learners, as names and text."""
    plan, environment, sketch = resolved.plan, context.environment, context.sketch
    config, count = plan.config, plan.ranks.all
    shape = "x".join(map(str, environment.observation_shape))
    gossip = config.gossip
    together = f"{gossip.method} of {count}"
    if gossip.method == "gossip":
        together += f", topology {gossip.topology}"
    needed, free = shared_bytes(context, resolved) / 2**20, available_bytes() / 2**20
    return [
        ("environment", f"{environment.env_id}: observations of {shape} "
         f"{environment.observation_dtype}, {environment.actions.describe()}"),
        *([("observations", environment.observation_note)] if environment.observation_note else []),
        ("network", f"{sketch.network}, {sketch.parameters:,} parameters"),
        ("learners", together),
        ("learning rate", lr_in_words(config.algorithm, 6)),
        ("rollout", f"{config.algorithm.num_steps} steps of {config.environment.num_envs} "
         f"environments: {plan.agent_steps_per_update:,} agent steps per update"),
        *([("pipeline", "acts for the next rollout while it learns from the last one: policy lag "
            "of one update")] if config.algorithm.pipeline else []),
        ("processes", f"{len(plan.learners)} learners, {plan.simulators} simulator processes, the "
         "supervisor and the server that all are forked from"),
        ("shared memory", f"{needed:,.0f} MiB; {free:,.0f} MiB are free"),
        ("open files", f"at most {plan.descriptors:,}; the limit is "
         f"{context.machine.descriptors:,}"),
        *place_in_words(plan),
        *(("GPU", line) for line in gpus_in_words(context.machine)),
        *([("processors", quota_text(context.machine))] if context.machine.throttled else []),
    ]  # fmt: skip


def place_in_words(plan: Plan) -> list[tuple[str, str]]:
    """Return where this machine is among those of the run, and what it opens to the network."""
    place, ranks = plan.place, plan.ranks
    if place is None:
        return [("ports", "none: all talk through shared memory")]
    own = [ranks.among_all(lane) for lane in range(ranks.lanes)]
    return [
        ("machine", f"{place.node} of {place.nodes}: learners {own[0]} to {own[-1]} of {ranks.all} "
         "in all, and a bridge to the others"),
        ("ports", f"listens at {', '.join(place.listen) or 'none'}; connects to "
         f"{', '.join(place.connect) or 'none'}"),
        *([("network", f"in plain text: {', '.join(place.plain)}")] if place.plain else []),
        *([("keys", place.keys.key)] if place.keys is not None else []),
    ]  # fmt: skip


def settings_table(config: RunConfig, sources: Sources) -> Table:
    """Return a line per setting that is no default: its value, and where that is from."""
    result = plain_table(("setting", "value", "from"), text=range(3))
    for setting in settings(config):
        source = sources.get((setting.section, setting.name))
        if source is not None:
            name = full_name(setting.section, setting.name)
            result.add_row(name, shown(toml_of(setting, value_in(config, setting))), source)
    return result


def gpus_in_words(machine: Machine) -> list[str]:
    """Return a line per GPU: its name, or why it is left out."""
    lines = [f"{gpu.device}: {gpu.name} {gpu.uuid}".rstrip() for gpu in machine.gpus if gpu.name]
    folder = mps_folder() if machine.gpus else None
    return lines + left_out(machine) + ([] if folder is None else [mps_in_words(folder)])


def learners_table(context: RunContext, resolved: ResolvedRun) -> Table:
    """Return a line per learner: its device, its processors and those of its simulators."""
    of_learner = ("learner", "device", "NUMA node", "processors", "threads")
    headings = (*of_learner, "simulator processes", "on processors")
    result = plain_table(headings, text=range(len(headings)))
    resources = resolved.plan.config.resources
    for learner in resolved.plan.learners:
        mine, theirs = map(format_list, learner.cpus) if resources.pin else ("any", "any")
        node = format_list(_nodes(context, learner))
        counts = str(resources.threads), str(resources.simulator_workers)
        result.add_row(str(learner.rank), learner.device, node, mine, *counts, theirs)
    return result


def planned(context: RunContext, resolved: ResolvedRun) -> dict[str, Any]:
    """Return the plan as JSON values: every setting resolved, and what follows from it."""
    plan = resolved.plan
    return {
        "config": to_dict(plan.config),
        "observations": _observations(context.environment),
        "network": context.sketch.network,
        "parameters": context.sketch.parameters,
        "shared_memory_bytes": shared_bytes(context, resolved),
        "open_files": plan.descriptors,
        "processors_allowed": context.machine.quota,
        "ports": [] if plan.place is None else list(plan.place.listen),
        **({} if plan.place is None else {"place": plan.place._asdict()}),
        "gpus": [
            {"device": gpu.device, "name": gpu.name, "uuid": gpu.uuid, "node": gpu.node}
            for gpu in context.machine.gpus
        ],
        "unusable": context.machine.unusable,
        "learners": [
            {"rank": each.rank, "device": each.device, "nodes": _nodes(context, each)}
            | {"cores": each.cpus._asdict()}
            for each in plan.learners
        ],
    }


def _observations(environment: EnvironmentSpec) -> dict[str, Any]:
    """Return what the network sees, as JSON values."""
    return {
        "shape": list(environment.observation_shape),
        "dtype": environment.observation_dtype,
        "scale": environment.scale,
        "note": environment.observation_note,
    }


def shared_bytes(context: RunContext, resolved: ResolvedRun) -> int:
    """Return the shared memory that the run would reserve, in bytes."""
    return size_of(
        array_specs(resolved.plan, resolved.topology, context.environment, context.sketch)
    )


def _nodes(context: RunContext, learner: LearnerPlan) -> list[int]:
    """Return the NUMA nodes of the processors that a learner computes on."""
    return sorted({c.node for c in context.machine.cpus if c.number in learner.cpus.learner})
