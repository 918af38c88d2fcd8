"""The config of a command line; for a resumed run, merged into the stored one.

    options --given--> values --+--> RunConfig
    RUN/config.json, locked ----/

Runs in the parent. Only light modules are imported at the top, as in the command line itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galamp.core import user_code
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.config import RunConfig, from_dict, from_settings
from galamp.core.errors import UserError
from galamp.core.older_configs import renamed
from galamp.core.settings import Setting, check, flag_of, settings, shown
from galamp.telemetry.display.streams import tell

if TYPE_CHECKING:
    from galamp.storage.run_folder import RunFolder, StoredChoices
    from galamp.supervision.plan import LearnerPlan

Values = dict[tuple[str, str], Any]
"""Settings by section and name."""
GRAPH_SETTING = ("gossip", "topology")
SINKS_SETTING = ("report", "sinks")


def dest_of(section: str, name: str) -> str:
    """Return what a setting is called among the parsed options."""
    return f"{section}.{name}"


def config_from(options: argparse.Namespace) -> RunConfig:
    """Return the config of the options, merged into the stored one for a resumed run.

    Raises:
        UserError: every wrong value, one line each.
    """
    return _checked(_over_stored(options, _given(options)))


@contextlib.contextmanager
def configured(options: argparse.Namespace) -> Iterator[tuple[RunConfig, RunFolder | None]]:
    """Yield the config of the options, and the locked folder of the run that is resumed.

    The lock comes first: a run that is just ending still writes its config and its last checkpoint.

    Raises:
        UserError: every wrong value, one line each; or the folder is in use.
    """
    given = _given(options)
    if options.resume is None:
        yield _checked(from_settings(given, type(options.usual.algorithm))), None
        return
    from galamp.storage.run_folder import RunFolder

    _check_run_folder(options.resume)
    with contextlib.closing(RunFolder.open(options.resume)) as folder:
        folder.kept = kept_of(options)
        yield _checked(_over_stored(options, given)), folder


def kept_of(options: argparse.Namespace) -> StoredChoices:
    """Return which stored choices a resumed run keeps, given the command line."""
    from galamp.storage.run_folder import StoredChoices

    if options.resume is None:
        return StoredChoices()
    graph_of = None if "gossip.topology" in options else options.resume
    return StoredChoices(graph_of, devices="resources.device" not in options)


def _given(options: argparse.Namespace) -> Values:
    """Return the settings that the command line gives.

    Raises:
        UserError: every wrong value, one line each.
    """
    known = {(setting.section, setting.name): setting for setting in settings(options.usual)}
    values: Values = {}
    problems: list[str] = []
    for dest, given in vars(options).items():
        section, dot, former = dest.partition(".")
        if not dot:
            continue
        name, value = renamed(section, former, given)
        setting = known[section, name]
        if name != former and dest_of(section, name) in options:
            problems.append(f"{flag_of(former)} and {setting.flag}: are the same; give the latter")
            continue
        _tell_renamed(former, given, setting, value)
        try:
            values[section, name] = check(setting, value)
        except UserError as error:
            problems.append(str(error))
    if options.game is not None:
        if ("environment", "env_id") in values:
            problems.append("--game and --env-id: both name the environment; give one of them")
        values["environment", "env_id"] = options.game
    problems += _environment_problems(values, options.game is not None)
    if problems:
        raise UserError(*problems)
    return values


def _tell_renamed(former: str, given: Any, setting: Setting, value: Any) -> None:
    """Tell the name of today where the command line has a former one."""
    if former != setting.name:
        tell(f"galamp: {flag_of(former)} is now called {setting.flag}\n", sys.stderr)
    if value != given:
        tell(f"galamp: {setting.flag} {given} is now called {value}\n", sys.stderr)


def _over_stored(options: argparse.Namespace, values: Values) -> RunConfig:
    if options.resume is None:
        return from_settings(values, type(options.usual.algorithm))
    stored = _stored(options.resume, values)
    kept = {
        (s.section, s.name): getattr(getattr(stored, s.section) if s.section else stored, s.name)
        for s in settings(stored)
        if s.option.stored
    }
    _check_has(stored.algorithm, values)
    return from_settings(kept | values, type(stored.algorithm))


def _check_has(algorithm: AlgorithmConfig, given: Values) -> None:
    """Refuse settings that the algorithm of a run has not.

    Raises:
        UserError: one line for each.
    """
    had = {setting.name for setting in settings(algorithm)}
    problems = [
        f"--{name.replace('_', '-')}: the run is of algorithm {algorithm.algorithm}, which has no "
        "such setting; leave it out"
        for section, name in given
        if section == "algorithm" and name not in had
    ]
    if problems:
        raise UserError(*problems)


def _checked(config: RunConfig) -> RunConfig:
    """Return `config` once its metric sinks are loaded: what is missing is told at once."""
    from galamp.telemetry.sinks import load_sinks

    load_sinks(config.report.sinks)
    return config


def _check_run_folder(folder: Path) -> None:
    from galamp.storage.run_folder import CONFIG

    if not os.path.isfile(folder / CONFIG):
        raise UserError(f"--resume {folder}: no run folder (it has no {CONFIG})")


def _environment_problems(values: Values, game: bool) -> list[str]:
    """Check the environment before torch is imported: a typing error is reported at once."""
    if ("environment", "env_id") not in values:
        return []
    from galamp.environments.names import ATARI, canonical_env_id

    name = values["environment", "env_id"]
    try:
        known = canonical_env_id(name)
    except UserError as error:
        return [f"{'--game' if game else '--env-id'}: {error}"]
    if game and not known.startswith(ATARI):
        return [f"--game {shown(name)}: expected an Atari game; other environments go by --env-id"]
    return []


def _stored(folder: Path, given: Values) -> RunConfig:
    """Return the settings of the run in `folder`, with every choice made as it was.

    If another number of learners is `given`, or they move to another kind of device, the choices
    that depend on it are made again.

    Raises:
        UserError: there is none, it is damaged, or it alone names a module that would be imported.
    """
    from galamp.algorithms.networks import check_network_asked
    from galamp.core.machine.machine import inspect_machine
    from galamp.environments.names import check_asked
    from galamp.storage.inspection import check_own_graph, refuse_links
    from galamp.storage.run_folder import CONFIG, read_json
    from galamp.supervision.plan import changes_kind, with_learners

    _check_run_folder(folder)
    refuse_links(folder)
    stored = read_json(folder / CONFIG)
    resolved = stored.pop("resolved", None)
    algorithm = given.get(("algorithm", "algorithm"), "")
    config = from_dict(stored, algorithm)
    run = f"--resume {folder}: the run"
    name = config.algorithm.algorithm
    user_code.check_asked("--algorithm", name, algorithm, run, "add --algorithm", fixed=True)
    asked = given.get(("environment", "env_id"), "")
    check_asked(config.environment.env_id, asked, run)
    asked = given.get(("model", "network"), "")
    check_network_asked(config.model.network, asked, run)
    if GRAPH_SETTING not in given:
        check_own_graph(folder, config.gossip.topology)
    if SINKS_SETTING not in given:
        user_code.check_asked("--sinks", config.report.sinks, "", run, "add --sinks")
    device = given.get(("resources", "device"), config.resources.device)
    learners = given.get(("resources", "learners"), config.resources.learners)
    machine, ran = inspect_machine(device), _ran(resolved, config)
    others = learners != config.resources.learners
    if ran and (others or changes_kind(device, machine, ran)):
        config = with_learners(config, learners, machine, ran)
    return config


def _ran(resolved: object, config: RunConfig) -> list[LearnerPlan]:
    """Return the learners' plans as config.json stores them; none where it does not."""
    from galamp.supervision.placement import CpuSet
    from galamp.supervision.plan import LearnerPlan

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
