"""Files of sweeps: TOML with the sections of a run, and what is varied, to planned runs.

    [sweep] + [sweep.grid] + [[sweep.arm]] --> arms x environments x seeds, each a PlannedRun
    sections of a run, as in --config -------^
    [search] --search_file--> what trials of each arm draw besides

Default < preset < sections of the file < grid < arm. Whatever cannot be used is told in one line
each, before anything starts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from galamp.cli import config_file, search_file
from galamp.cli.config_file import full_name
from galamp.cli.layers import ALGORITHM, LEARNERS, SEED, WORD
from galamp.cli.presets import Values, preset_values
from galamp.cli.search_file import SearchedArm, search_from
from galamp.core.algorithm_config import AlgorithmConfig, algorithm_config
from galamp.core.config import RunConfig, from_settings
from galamp.core.errors import NEAR, UserError, did_you_mean
from galamp.core.settings import AUTO, check, settings, shown
from galamp.environments.names import canonical_env_id
from galamp.storage.new_folder import name_part
from galamp.tools.sweep.planned import ENV_ID, SEEDS, PlannedRun, Sweep, SweepConfig, own_code

SECTION = "sweep"
LISTS = ("seeds", "games", "grid", "arm")
OF_AN_ARM = ("name", "preset", "seeds", "games", "cores")
"""What an arm has besides settings."""
OF_THE_SWEEP = ("run_dir", "name", "quiet", "json", "on_hangup")
"""Settings of `report` that the sweep gives to each run."""
MAX_RUNS = 10_000
MAX_SEED = 2**31 - 1

Raw = Mapping[str, Any]


class Arm(NamedTuple):
    """One arm as the file has it.

    Attributes:
        name: of it.
        source: what messages call it.
        raw: its settings by section, of the file's form.
        own: what it has besides settings.
    """

    name: str
    source: str
    raw: dict[str, Any]
    own: Raw


def sweep_from(path: Path, allowed: Sequence[str] = (), jobs: int = AUTO) -> Sweep:
    """Return the sweep of a file.

    Args:
        path: the file.
        allowed: names of the user's code that runs may import: anyone may write a file.
        jobs: runs at once, if the command line says so.

    Raises:
        UserError: a line for each problem.
    """
    raw = config_file.read(path, "")
    of_sweep, of_search = raw.pop(SECTION, {}), raw.pop(search_file.SECTION, None)
    if not isinstance(of_sweep, dict):
        raise UserError(f"{path}: sweep: expected a section, [sweep]")
    config = _config(path, of_sweep, jobs)
    problems: list[str] = []
    runs: list[PlannedRun] = []
    for arm in _arms(path, of_sweep):
        try:
            runs += _runs(arm, raw, of_sweep, config, allowed)
        except UserError as error:
            problems += error.problems
        if len(runs) > MAX_RUNS:
            raise UserError(f"{path}: more than {MAX_RUNS:,} runs; vary less")
    problems += _repeated(path, runs)
    if problems:
        raise UserError(*dict.fromkeys(problems))
    if config.order == SEEDS:
        runs = _seed_by_seed(runs)
    sweep = Sweep(name_part(config.name or path.stem), config, tuple(runs))
    return sweep if of_search is None else _searched(path, sweep, of_search, raw, of_sweep, allowed)


def _seed_by_seed(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs so that all arms and environments have a seed before any has its next."""
    places: Counter[tuple[str, str]] = Counter()
    order = []
    for run in runs:
        of = run.arm, run.env_id
        order.append(places[of])
        places[of] += 1
    return [run for _, run in sorted(zip(order, runs, strict=True), key=lambda pair: pair[0])]


def _searched(
    path: Path, sweep: Sweep, of_search: Any, of_file: Raw, of_sweep: Raw, allowed: Sequence[str]
) -> Sweep:
    """Return a sweep whose runs are those of trials, with the search of its file.

    Raises:
        UserError: a line for each problem.
    """
    grid = {key.rpartition(".")[::2] for key, _ in _axes(path, of_sweep.get("grid", {}))}
    arms, of_arms = list(_arms(path, of_sweep)), []
    for arm in arms:
        _, usual = _values(arm, of_file, sweep.config)
        given = frozenset(config_file.checked(arm.raw, usual, arm.source))
        of_arms.append(SearchedArm(usual, given & grid, given - grid))
    search = search_from(path, of_search, of_arms)
    if (count := search.trials * len(sweep.runs)) > MAX_RUNS:
        raise UserError(f"{path}: search: {count:,} runs, more than {MAX_RUNS:,}; try less")
    problems: list[str] = []
    for arm, corner in itertools.product(arms, search.corners()):
        values, usual = _values(arm, of_file, sweep.config)
        drawn = search.values(corner)
        config = from_settings(values | drawn, type(usual.algorithm))
        of_trial = arm._replace(source=f"{path}: search")
        problems += _refused(of_trial, config, drawn, sweep.config, allowed)
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return replace(sweep, search=search)


def _config(path: Path, of_sweep: Raw, jobs: int) -> SweepConfig:
    """Return what the section has besides lists and tables.

    Raises:
        UserError: a line for each problem.
    """
    known = {setting.name: setting for setting in settings(SweepConfig)}
    values: dict[str, Any] = {}
    problems = []
    for name, value in of_sweep.items():
        if name in LISTS:
            continue
        if name not in known:
            near = did_you_mean(name, [*known, *LISTS], cutoff=NEAR)
            expected = f"expected {', '.join([*known, *LISTS])}"
            problems.append(f"{path}: unknown setting {shown(f'sweep.{name}')}{near}; {expected}")
            continue
        try:
            values[name] = check(known[name], value)
        except UserError as error:
            text = str(error).removeprefix(known[name].flag)
            problems.append(f"{path}: sweep.{name}{text}")
    if problems:
        raise UserError(*problems)
    return SweepConfig(**(values | ({"jobs": jobs} if jobs != AUTO else {})))


def _arms(path: Path, of_sweep: Raw) -> Iterator[Arm]:
    """Yield every combination of arms and of values of the grid.

    Raises:
        UserError: they have not the form of arms, or of a grid.
    """
    grid, arms = of_sweep.get("grid", {}), of_sweep.get("arm", [{}])
    if not isinstance(grid, dict):
        raise UserError(f"{path}: sweep.grid: expected a table of lists, [sweep.grid]")
    if not isinstance(arms, list) or not arms or not all(isinstance(a, dict) for a in arms):
        raise UserError(f"{path}: sweep.arm: expected tables, [[sweep.arm]] before each")
    axes = list(_axes(path, grid))
    for number, each in enumerate(arms, 1):
        own = {name: value for name, value in each.items() if name in OF_AN_ARM}
        of_arm = {name: value for name, value in each.items() if name not in OF_AN_ARM}
        named = own.get("name", f"arm{number}" if len(arms) > 1 else "")
        if not isinstance(named, str):
            raise UserError(f"{path}: sweep.arm {number}: name: expected a text")
        for values in itertools.product(*(axis for _, axis in axes)):
            pairs = [(key, value) for (key, _), value in zip(axes, values, strict=True)]
            parts = [named, *(f"{key.rpartition('.')[2]}-{_text(value)}" for key, value in pairs)]
            name = name_part("-".join(filter(None, parts)).replace("/", "-")) if any(parts) else ""
            source = f"{path}: arm {name}" if name else str(path)
            yield Arm(name, source, _nested([*pairs, *of_arm.items()]), own)


def _axes(path: Path, grid: Raw) -> Iterator[tuple[str, list[Any]]]:
    """Yield each setting of the grid with its values; keys may be quoted, or have sections.

    Raises:
        UserError: no list, or an empty one.
    """
    for key, value in grid.items():
        if isinstance(value, dict):
            yield from _axes(path, {f"{key}.{name}": leaf for name, leaf in value.items()})
        elif isinstance(value, list) and value:
            yield key, value
        else:
            raise UserError(f"{path}: sweep.grid: {shown(key)}: expected a list of values")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _nested(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return settings by section: `"algorithm.gamma" = 1` is `[algorithm] gamma = 1`."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        section, dot, name = key.partition(".")
        if dot:
            value = {name: value}
        if isinstance(value, dict) and isinstance(found.get(section), dict):
            found[section] = {**found[section], **value}  # the file's own tables stay as they are
        else:
            found[section] = value
    return found


def _runs(
    arm: Arm, of_file: Raw, of_sweep: Raw, sweep: SweepConfig, allowed: Sequence[str]
) -> list[PlannedRun]:
    """Return the runs of an arm.

    Raises:
        UserError: a line for each problem.
    """
    values, usual = _values(arm, of_file, sweep)
    problems: list[str] = []
    seeds = _seeds(arm, arm.own.get("seeds", of_sweep.get("seeds")), values, problems)
    twice = any(map(_names_environment, (arm.raw, of_file)))  # a preset may name one as well
    games = _games(arm, arm.own.get("games", of_sweep.get("games")), values, twice, problems)
    config = from_settings(values, type(usual.algorithm))
    problems += _refused(arm, config, values, sweep, allowed)
    cores = arm.own.get("cores", sweep.cores)
    least = 1 if "cores" in arm.own else AUTO
    if type(cores) is not int or cores < least:
        problems.append(f"{arm.source}: cores: expected a number from 1")
    if problems:
        raise UserError(*problems)
    name = arm.name or name_part(config.algorithm.algorithm.rpartition(":")[2])
    runs = []
    for game, seed in itertools.product(games, seeds):
        own = {**values, ENV_ID: game, SEED: seed}
        label = f"{name}-{name_part(game)}-{seed}"
        whole = from_settings(own, type(usual.algorithm))
        runs.append(
            PlannedRun(label, name, game, seed, own, whole, cores or whole.resources.learners)
        )
    return runs


def _values(arm: Arm, of_file: Raw, sweep: SweepConfig) -> tuple[Values, RunConfig]:
    """Return the settings of an arm, and the defaults of its algorithm.

    Raises:
        UserError: a line for each problem.
    """
    name = arm.own.get("preset", sweep.preset)
    of_preset = _of_preset(arm, str(name)) if name else {}
    named = [config_file.algorithm_in(raw) for raw in (arm.raw, of_file)]
    algorithm = next((each for each in named if each is not None), None)
    if algorithm is not None and name and algorithm != of_preset[ALGORITHM]:
        raise UserError(
            f"{arm.source}: preset {name} is of algorithm {of_preset[ALGORITHM]}, the arm of "
            f"{shown(algorithm)}; leave out one of them"
        )
    for raw in (arm.raw, of_file):
        resources = raw.get(LEARNERS[0])
        if isinstance(resources, dict) and resources.get(LEARNERS[1]) == WORD:
            raise UserError(
                f"{arm.source}: resources.learners auto: trains to find the number; give a number"
            )
    usual = _usual(arm, algorithm or of_preset.get(ALGORITHM, RunConfig().algorithm.algorithm))
    # What is wrong in the file for every arm is told once.
    of_all = arm.source if named[0] is not None else arm.source.partition(": arm ")[0]
    values = of_preset | config_file.checked(of_file, usual, of_all)
    values |= config_file.checked(arm.raw, usual, arm.source)
    return values | {ALGORITHM: usual.algorithm.algorithm}, usual


def _of_preset(arm: Arm, name: str) -> Values:
    try:
        return preset_values(name)
    except UserError as error:
        raise UserError(f"{arm.source}: {str(error).removeprefix('--')}") from None


def _usual(arm: Arm, algorithm: Any) -> RunConfig:
    setting = next(s for s in settings(AlgorithmConfig) if s.name == "algorithm")
    try:
        return RunConfig(algorithm=algorithm_config(check(setting, algorithm)))
    except UserError as error:
        text = str(error).removeprefix(setting.flag)
        raise UserError(f"{arm.source}: algorithm.algorithm{text}") from None


def _seeds(arm: Arm, given: Any, values: Values, problems: list[str]) -> list[int]:
    """Return the seeds of an arm: a list, or how many, from 1; by default that of its settings."""
    if given is None:
        return [values.get(SEED, RunConfig().seed)]
    if SEED in values:
        problems.append(f"{arm.source}: seed and seeds: both give seeds; leave out one of them")
    if type(given) is int and 1 <= given <= MAX_RUNS:
        return list(range(1, given + 1))
    if isinstance(given, list) and given and all(type(s) is int and 0 <= s <= MAX_SEED
                                                 for s in given):  # fmt: skip
        return given
    problems.append(
        f"{arm.source}: seeds {shown(given)}: expected whole numbers, as in [1, 2, 3], or how many"
    )
    return []


def _names_environment(raw: Raw) -> bool:
    section, name = ENV_ID
    environment = raw.get(section)
    return isinstance(environment, dict) and name in environment


def _games(arm: Arm, given: Any, values: Values, twice: bool, problems: list[str]) -> list[str]:
    """Return the environments of an arm; by default that of its settings.

    `twice`: whether its settings name one, too.
    """
    if given is None:
        given = [values.get(ENV_ID, RunConfig().environment.env_id)]
    elif twice:
        problems.append(
            f"{arm.source}: games and environment.env_id: both name environments; leave out one of "
            "them"
        )
    if not isinstance(given, list) or not given or not all(isinstance(g, str) for g in given):
        problems.append(f"{arm.source}: games {shown(given)}: expected names, as in ['Pong']")
        return []
    found = []
    for game in given:
        try:
            found.append(canonical_env_id(game))
        except UserError as error:
            problems.append(f"{arm.source}: games: {error}")
    return found


def _refused(
    arm: Arm, config: RunConfig, values: Values, sweep: SweepConfig, allowed: Sequence[str]
) -> Iterator[str]:
    """Yield what cannot be in a sweep, a line each."""
    for name in OF_THE_SWEEP:
        if ("report", name) in values:
            yield f"{arm.source}: report.{name}: the sweep gives it to each run; leave it out"
    if "cuda:" in config.resources.device:
        yield (
            f"{arm.source}: resources.device {shown(config.resources.device)}: expected auto, cpu "
            "or cuda; a run gets its GPUs when it starts, as many as sweep.gpus says"
        )
    for setting, name in own_code(config):
        if name not in allowed:
            yield (
                f"{arm.source}: {full_name(setting.section, setting.name)} {shown(name)} names "
                f"code of your own, and anyone may write a file: add --allow {shown(name)}"
            )
    given = sweep.cores or arm.own.get("cores") or config.resources.learners
    if sweep.jobs > 1 and not given:
        yield (
            f"{arm.source}: resources.learners: not given, so it would follow from how many runs "
            "there are at once; give it, or sweep.cores"
        )


def _repeated(path: Path, runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Yield what would be run twice, a line each."""
    names = Counter(run.name for run in runs)
    yield from (
        f"{path}: {count} runs would be called {name}; give other names or seeds"
        for name, count in names.items()
        if count > 1
    )
    of: dict[str, str] = {}
    for run in runs:
        other = of.setdefault(run.hash, run.name)
        if other != run.name:
            yield f"{path}: {other} and {run.name} are the same run; leave out one of them"
