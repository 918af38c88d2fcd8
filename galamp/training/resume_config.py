"""Config of a resumed run: the stored one, with what is given now in place of it.

    RUN/config.json --stored_config--> every choice as it was --+--> RunConfig
    settings given with --resume -------------------------------/

Runs in the parent, before any process starts. Nothing is imported because a config alone names it:
anyone may have written that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from galamp.algorithms.networks import AUTO, NETWORKS, check_network_asked
from galamp.core import user_code
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.cluster_config import ClusterConfig
from galamp.core.config import RunConfig, from_dict, from_settings, value_in
from galamp.core.errors import UserError
from galamp.core.machine.machine import inspect_machine
from galamp.core.settings import flag_of, settings
from galamp.environments.names import check_asked
from galamp.storage.inspection import FILE, check_own_graph, refuse_links
from galamp.storage.inspection import GRAPH as GRAPH_FILE
from galamp.storage.run_folder import CONFIG, StoredChoices, read_json
from galamp.supervision.placement import CpuSet
from galamp.supervision.plan import LearnerPlan, changes_kind, with_learners

Values = Mapping[tuple[str, str], Any]
"""Settings by section and name."""

GRAPH, SINKS, DEVICE = ("gossip", "topology"), ("report", "sinks"), ("resources", "device")
LEARNERS, RUN_DIR = ("resources", "learners"), ("report", "run_dir")


def resumed_config(folder: Path, given: Values) -> RunConfig:
    """Return the config with which the run in `folder` is resumed.

    Args:
        folder: the run folder.
        given: checked settings that replace the stored ones.

    Raises:
        UserError: see `stored_config`; or the run's algorithm has not all of the settings.
    """
    stored = stored_config(folder, given)
    _check_has(stored.algorithm, given)
    _check_normalisers(stored, given)
    return from_settings(_kept(stored) | _alone(given) | dict(given), type(stored.algorithm))


def _alone(given: Values) -> dict[tuple[str, str], Any]:
    """Return the settings of several machines as they are on one, if that is given: `--nodes 1`."""
    if given.get(("cluster", "nodes")) != 1:
        return {}
    return {("cluster", field.name): field.default for field in fields(ClusterConfig)}


def values_like(folder: Path, given: Values) -> dict[tuple[str, str], Any]:
    """Return the settings of the run in `folder`, for a new run that has the same.

    They are its stored ones but for the folder; a gossip graph from a file is the run's copy of it.

    Args:
        folder: the run folder.
        given: checked settings that replace the stored ones.

    Raises:
        UserError: see `stored_config`.
    """
    stored = stored_config(folder, given, f"--like {folder}: the run")
    kept = _kept(stored)
    del kept[RUN_DIR]
    if stored.gossip.topology.startswith(FILE):
        kept[GRAPH] = f"{FILE}{os.path.abspath(folder / GRAPH_FILE)}"
    return kept


def _kept(stored: RunConfig) -> dict[tuple[str, str], Any]:
    """Return the settings that belong to a run, by section and name."""
    return {(s.section, s.name): value_in(stored, s) for s in settings(stored) if s.option.stored}


def kept_choices(folder: Path, given: Container[tuple[str, str]]) -> StoredChoices:
    """Return which stored choices the resumed run keeps: those that no `given` setting replaces."""
    return StoredChoices(None if GRAPH in given else folder, devices=DEVICE not in given)


def stored_config(folder: Path, given: Values, holder: str = "") -> RunConfig:
    """Return the settings of the run in `folder`, with every choice made as it was.

    `holder` is what refusals call the run (default: as it is resumed).

    If another number of learners is `given`, or they move to another kind of device, the choices
    that depend on it are made again.

    Raises:
        UserError: there is none, it is damaged, or it alone names a module that would be imported.
    """
    refuse_links(folder)
    stored = read_json(folder / CONFIG)
    resolved = stored.pop("resolved", None)
    algorithm = given.get(("algorithm", "algorithm"), "")
    config = from_dict(stored, algorithm)
    check_imports(holder or f"--resume {folder}: the run", config, given)
    if GRAPH not in given:
        check_own_graph(folder, config.gossip.topology)
    config = _with_plain_network(config, resolved)
    device = given.get(DEVICE, config.resources.device)
    learners = given.get(LEARNERS, config.resources.learners)
    machine, ran = inspect_machine(device), plans_in(resolved, config)
    others = learners != config.resources.learners
    if ran and (others or changes_kind(device, machine, ran)):
        config = with_learners(config, learners, machine, ran)
    return config


def _with_plain_network(config: RunConfig, resolved: object) -> RunConfig:
    """Name the network that `auto` had chosen for PQN before it chose layer normalisation."""
    if config.model.network != AUTO or not config.algorithm.outputs_are_values:
        return config
    name = resolved.get("network") if isinstance(resolved, dict) else None
    if not isinstance(name, str) or name not in NETWORKS or NETWORKS[name].layer_norm:
        return config
    return replace(config, model=replace(config.model, network=name))


def check_imports(holder: str, config: RunConfig, given: Values) -> None:
    """Check that whatever would be imported is named anew.

    Args:
        holder: what has the config, for a refusal.
        config: the config that comes from elsewhere.
        given: settings that the command line names.

    Raises:
        UserError: the config alone names it.
    """
    asked = given.get(("algorithm", "algorithm"), "")
    name = config.algorithm.algorithm
    user_code.check_asked("--algorithm", name, asked, holder, "add --algorithm", fixed=True)
    asked = given.get(("environment", "env_id"), "")
    check_asked(config.environment.env_id, asked, holder)
    wrappers = given.get(("environment", "wrapper"), ())
    user_code.check_all_asked("--wrapper", config.environment.wrapper, wrappers, holder, "add")
    check_network_asked(config.model.network, given.get(("model", "network"), ""), holder)
    if SINKS not in given:
        user_code.check_asked("--sinks", config.report.sinks, "", holder, "add --sinks")


def _check_has(algorithm: AlgorithmConfig, given: Values) -> None:
    """Refuse settings that the algorithm of a run has not.

    Raises:
        UserError: one line for each.
    """
    had = {setting.name for setting in settings(algorithm)}
    problems = [
        f"{flag_of(name)}: the run is of algorithm {algorithm.algorithm}, which has no "
        "such setting; leave it out"
        for section, name in given
        if section == "algorithm" and name not in had
    ]
    if problems:
        raise UserError(*problems)


def _check_normalisers(stored: RunConfig, given: Values) -> None:
    """Refuse another choice of what is normalised: networks are trained for the one they have.

    Raises:
        UserError: one line for each.
    """
    problems = [
        f"{flag_of(name)}: the run was begun {'with' if was else 'without'} it, and goes on so; "
        "leave it out"
        for name in ("norm_obs", "norm_reward")
        if given.get(("environment", name), was := getattr(stored.environment, name)) != was
    ]
    if problems:
        raise UserError(*problems)


def plans_in(resolved: object, config: RunConfig) -> list[LearnerPlan]:
    """Return the learners' plans in the section `resolved` of config.json; [] if it has none."""
    found: list[LearnerPlan] = []
    with contextlib.suppress(LookupError, TypeError, ValueError):
        for rank, noted in enumerate(resolved["learners"]):  # type: ignore[index]
            cores = noted["cores"]
            if isinstance(cores, list):  # galamp 0.1: a learner and its simulators share them
                cores = dict.fromkeys(CpuSet._fields, cores)
            cpus = CpuSet(*(tuple(map(int, cores[name])) for name in CpuSet._fields))
            found.append(LearnerPlan(rank, str(noted["device"]), cpus))
        if len(found) == config.resources.learners and all(each.cpus.simulators for each in found):
            return found
    return []
