"""The section `search` of a sweep's file: ranges of settings, checked as flags are.

    [search] trials = 20, gamma = {low = 0.9, high = 1} --search_from--> Search: Range, ...

Whatever cannot be used is told in one line each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from galamp.cli.layers import ALGORITHM, LEARNERS, SEED
from galamp.core.config import RunConfig
from galamp.core.errors import NEAR, UserError, did_you_mean
from galamp.core.settings import AUTO, Setting, check, settings, shown
from galamp.tools.sweep.planned import ENV_ID
from galamp.tools.sweep.space import Range, Search

SECTION = "search"
TRIALS, SAMPLER_SEED = "trials", "sampler-seed"
OF_A_RANGE = ("low", "high", "log", "choices")
MAX_TRIALS = 10_000
MAX_SEED = 2**31 - 1
USUAL_SEED = 1
NOT_SEARCHED = {
    SEED: "the sweep's seeds say it",
    ENV_ID: "the sweep's games say it",
    ALGORITHM: "other algorithms have other flags; make arms of them",
    LEARNERS: "trials have the same cores; give it",
}
"""Settings that no trial draws, and why."""

Raw = Mapping[str, Any]


class SearchedArm(NamedTuple):
    """What a search has to know of an arm.

    Attributes:
        usual: a config with the sections that the arm has.
        grid: settings that the grid gives it, by section and name.
        own: settings that it gives itself.
    """

    usual: RunConfig
    grid: frozenset[tuple[str, str]]
    own: frozenset[tuple[str, str]]


def search_from(path: Path, raw: Any, arms: Sequence[SearchedArm]) -> Search:
    """Return the search of a file.

    Args:
        path: the file.
        raw: content of the section.
        arms: all of the sweep, each of which is searched.

    Raises:
        UserError: a line for each problem.
    """
    if not isinstance(raw, dict):
        raise UserError(f"{path}: search: expected a section, [search]")
    problems: list[str] = []
    trials = _number(path, raw, TRIALS, None, range(1, MAX_TRIALS + 1), problems)
    seed = _number(path, raw, SAMPLER_SEED, USUAL_SEED, range(MAX_SEED + 1), problems)
    ranges: list[Range] = []
    for name, value in _flags(raw):
        try:
            ranges.append(_range(path, name, value, arms))
        except UserError as error:
            problems += error.problems
    names = [each.name for each in ranges]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        problems.append(f"{path}: search.{name}: named twice; leave out one of them")
    if not ranges and not problems:
        example = "learning-rate = {low = 1e-4, high = 1e-2, log = true}"
        problems.append(f"{path}: search: names no flag; expected ranges, as in {example}")
    if problems:
        raise UserError(*problems)
    return Search(trials, seed, tuple(ranges))


def _number(
    path: Path, raw: Raw, name: str, usual: int | None, of: range, problems: list[str]
) -> int:
    """Return a whole number of the section; of one that is wrong, 0 and a problem."""
    value = raw.get(name, raw.get(name.replace("-", "_"), usual))
    if type(value) is int and value in of:
        return value
    given = "not given" if value is None else shown(value)
    expected = f"expected a whole number from {of[0]} to {of[-1]}"
    problems.append(f"{path}: search.{name}: {given}; {expected}")
    return 0


def _flags(raw: Raw) -> Iterator[tuple[str, Any]]:
    """Yield each flag as the file has it, and its range; keys may be quoted, or have sections."""
    for key, value in raw.items():
        if key.replace("_", "-") in (TRIALS, SAMPLER_SEED):
            continue
        if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
            yield from ((f"{key}.{name}", leaf) for name, leaf in value.items())
        else:
            yield key, value


def _range(path: Path, given: str, value: Any, arms: Sequence[SearchedArm]) -> Range:
    """Return one range.

    Raises:
        UserError: a line for each problem.
    """
    setting, *_ = [_setting(path, given, arm.usual) for arm in arms]
    key = setting.section, setting.name
    name = setting.flag.removeprefix("--")
    source = f"{path}: search.{name}"
    if key in NOT_SEARCHED:
        raise UserError(f"{source}: is not searched: {NOT_SEARCHED[key]}")
    for where, both in (
        ("[sweep.grid]", any(key in arm.grid for arm in arms)),
        ("[[sweep.arm]]", any(key in arm.own for arm in arms)),
    ):
        if both:
            raise UserError(f"{source}: is in {where}, too; leave out one of them")
    if not isinstance(value, dict) or not value:
        raise UserError(
            f"{source}: {shown(value)}: expected {{low = ..., high = ...}}, with log = true if it "
            "is drawn by its logarithm, or {choices = [...]}"
        )
    for word in value:
        if word not in OF_A_RANGE:
            near = did_you_mean(word, OF_A_RANGE, cutoff=NEAR)
            raise UserError(
                f"{source}: unknown {shown(word)}{near}; expected {', '.join(OF_A_RANGE)}"
            )
    if "choices" in value:
        return Range(name, key, choices=_choices(source, setting, value))
    return _numbers(source, setting, name, value)


def _setting(path: Path, given: str, usual: RunConfig) -> Setting:
    """Return the setting of a flag, of which its name or its section and name is given.

    Raises:
        UserError: there is none.
    """
    wanted = given.removeprefix("--").replace("-", "_")
    every = list(settings(usual))
    for setting in every:
        if wanted in (setting.name, f"{setting.section}.{setting.name}"):
            return setting
    names = [setting.flag.removeprefix("--") for setting in every]
    near = did_you_mean(given.rpartition(".")[2].replace("_", "-"), names, cutoff=NEAR)
    raise UserError(
        f"{path}: search: unknown flag {shown(given)}{near}; galamp run --help shows all that "
        f"{usual.algorithm.algorithm} has"
    )


def _choices(source: str, setting: Setting, value: Raw) -> tuple[Any, ...]:
    choices = value["choices"]
    if len(value) > 1:
        raise UserError(f"{source}: has choices and a range; leave out one of them")
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{source}: choices {shown(choices)}: expected a list of values")
    if setting.option.texts:
        raise UserError(f"{source}: is a list of texts, which is not searched; make arms of it")
    found = tuple(_checked(source, setting, choice) for choice in choices)
    if len(set(found)) < len(found):
        raise UserError(f"{source}: choices {shown(choices)}: one is named twice")
    return found


def _numbers(source: str, setting: Setting, name: str, value: Raw) -> Range:
    if setting.kind not in (int, float):
        raise UserError(f"{source}: is no number; expected {{choices = [...]}}")
    missing = [end for end in ("low", "high") if end not in value]
    if missing:
        raise UserError(f"{source}: {missing[0]} is not given; expected low and high, or choices")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{source}: log {shown(log)}: expected true or false")
    low, high = (_checked(source, setting, value[end]) for end in ("low", "high"))
    for end, number in (("low", low), ("high", high)):
        if number is None or (setting.option.auto and number == AUTO):
            raise UserError(f"{source}: {end} {shown(value[end])}: expected a number, or choices")
    if low > high:
        raise UserError(f"{source}: low {shown(low)} is above high {shown(high)}")
    if log and low <= 0:
        raise UserError(f"{source}: low {shown(low)}: expected a number above 0 where log is true")
    return Range(name, (setting.section, setting.name), low, high, log)


def _checked(source: str, setting: Setting, value: Any) -> Any:
    try:
        return check(setting, value)
    except UserError as error:
        raise UserError(f"{source}{str(error).removeprefix(setting.flag)}") from None
