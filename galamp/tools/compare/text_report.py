"""A comparison as tables: the runs, the settings that differ, scores, speed, and a sentence.

Made from the result of `comparison.compare` alone, as `--json` prints it. At 80 columns the longest
cells are folded; nothing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any, TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from galamp.core.sanitize import clean
from galamp.telemetry.display.console import table_console
from galamp.telemetry.display.text import UNKNOWN, count, duration, measure, score
from galamp.tools.compare.comparison import machine_only
from galamp.tools.compare.verdict import reaching_statement

SIDE_BY_SIDE = 4
"""Groups up to which the settings of each have a column of their own."""


def show(result: dict[str, Any], file: TextIO, width: int | None = None) -> None:
    """Write the comparison."""
    console = table_console(file, width)
    for heading, table in _tables(result):
        console.print(Text(heading, "bold"))
        console.print(table)
    for text in _statements(result):
        console.print(Text(text))
    console.print()
    for note in _notes(result):
        console.print(Text(note, "dim"))


def _tables(result: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    groups = result["groups"]
    yield "runs", _runs(result)
    if result["settings"]:
        yield "settings that differ", _settings(result)
    yield "scores", _scores(result)
    if any(axis["iqm"] for axis in result["at_equal"].values()):
        yield "interquartile mean of the scores, with 95 % bootstrap interval", _means(result)
    if result["wanted_score"] is not None:
        heading = (
            f"a score of {result['wanted_score']:g}: by how many runs, and when by half of all"
        )
        yield heading, _reached(groups)
    yield "speed, median over runs", _speed(groups)


def _statements(result: dict[str, Any]) -> Iterator[str]:
    """Yield what can be said of each pair of groups, and only once that nothing can."""
    for steps, hours in zip(*(axis["pairs"] for axis in result["at_equal"].values()), strict=True):
        yield steps["statement"]
        if steps["improvement"] or hours["improvement"]:
            yield hours["statement"]
    for pair in result["reaching"]:
        yield reaching_statement(
            pair["groups"], result["wanted_score"], pair["log_rank_p"], pair["reached_p"]
        )


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def _runs(result: dict[str, Any]) -> Table:
    several = len(result["games"]) > 1
    names = ("group", *(("environment",) if several else ()), "seed", "agent steps", "time")
    table = _table(*names, "score", "run")
    table.columns[-1].justify = "left"
    for group in result["groups"]:
        for run in group["runs"]:
            hours = run["hours"]
            table.add_row(
                group["group"],
                *([_game(run["env_id"])] if several else []),
                clean(str(run["seed"])),
                UNKNOWN if run["agent_steps"] is None else count(run["agent_steps"]),
                UNKNOWN if hours is None else duration(3600 * hours),
                score(run["score"]),
                Text(run["name"] + (" (running)" if run["running"] else "")),
            )
    return table


def _settings(result: dict[str, Any]) -> Table:
    letters = [group["group"] for group in result["groups"]]
    if len(letters) > SIDE_BY_SIDE:
        table = _table("setting", "value", "groups")
        for name, of in result["settings"].items():
            texts = {letter: ", ".join(values) for letter, values in of.items()}
            for text in dict.fromkeys(texts.values()):
                those = " ".join(letter for letter in letters if texts[letter] == text)
                table.add_row(_setting(name), Text(text), those)
        return table
    table = _table("setting", *letters)
    for name, of in result["settings"].items():
        table.add_row(_setting(name), *(Text(", ".join(of[letter])) for letter in letters))
    return table


def _setting(name: str) -> str:
    return clean(name.replace("_", " ")) + (" *" if machine_only(name) else "")


def _scores(result: dict[str, Any]) -> Table:
    several = len(result["games"]) > 1
    axes = result["at_equal"]
    names = ("group", *(("environment",) if several else ()))
    table = _table(*names, "at equal agent steps", "", "at equal time", "")
    for group in result["groups"]:
        for game in result["games"]:
            cells = []
            for name, axis in axes.items():
                place = axis["places"].get(game, {}).get("at")
                cells += [_place(place, name), _mean(axis["scores"][group["group"]].get(game, ()))]
            if any(run["env_id"] == game for run in group["runs"]):
                table.add_row(group["group"], *([_game(game)] if several else []), *cells)
    return table


def _game(env_id: str) -> str:
    """Return the last part of an environment's id."""
    return clean(env_id.rpartition("/")[2])


def _place(place: float | None, axis: str) -> str:
    if place is None:
        return UNKNOWN
    return count(place) if axis == "steps" else duration(3600 * place)


def _mean(scores: Sequence[float]) -> str:
    """Return the mean, with its standard error where there are several runs."""
    if len(scores) < 2:
        return score(scores[0]) if scores else UNKNOWN
    return f"{score(fmean(scores))} ± {score(stdev(scores) / math.sqrt(len(scores)))}"


def _means(result: dict[str, Any]) -> Table:
    table = _table("group", *(f"at equal {axis['unit']}" for axis in result["at_equal"].values()))
    percent = any(axis["human_normalised"] for axis in result["at_equal"].values())
    for group in result["groups"]:
        cells = []
        for axis in result["at_equal"].values():
            found = axis["iqm"].get(group["group"])
            cells.append(UNKNOWN if found is None else _interval(found, percent))
        table.add_row(group["group"], *cells)
    return table


def _interval(found: dict[str, Any], percent: bool) -> str:
    def text(value: float) -> str:
        return f"{100 * value:.1f}%" if percent else score(value)

    if found["interval"] is None:
        return f"{text(found['iqm'])} [one run]"
    low, high = found["interval"]
    return f"{text(found['iqm'])} [{text(low)}, {text(high)}]"


def _reached(groups: Sequence[dict[str, Any]]) -> Table:
    table = _table("group", "reached by", "95 % interval", "agent steps", "time")
    for group in groups:
        steps, hours = group["steps_to_score"], group["hours_to_score"]
        low, high = group["reached_interval"]
        table.add_row(
            group["group"],
            f"{group['reached']} of {len(group['runs'])} runs",
            f"{100 * low:.0f}% to {100 * high:.0f}%",
            UNKNOWN if steps is None else count(steps),
            UNKNOWN if hours is None else duration(3600 * hours),
        )
    return table


def _speed(groups: Sequence[dict[str, Any]]) -> Table:
    table = _table("group", "agent steps/s", "frames/s", "joules/frame")
    for group in groups:
        cells = [group[name] for name in ("agent_steps_per_s", "frames_per_s")]
        table.add_row(
            group["group"],
            *(UNKNOWN if cell is None else count(cell) for cell in cells),
            measure(group["joules_per_frame"]),
        )
    return table


def _notes(result: dict[str, Any]) -> Iterator[str]:
    yield "Scores are means of the last 100 training episodes; ± is the standard error over runs."
    for axis in result["at_equal"].values():
        for game, place in axis["places"].items():
            of = f"{_game(game)}: " if len(result["games"]) > 1 else ""
            yield f"{of}Equal {axis['unit']}: as much as the shortest run has, {place['shortest']}."
    if any(axis["human_normalised"] for axis in result["at_equal"].values()):
        yield "Over several games, a score is in percent: 0% plays as chance, 100% as a human."
    if any(machine_only(name) for name in result["settings"]):
        yield "* follows the machine, and makes no groups."
    for note in result["notes"]:
        yield f"{note[0].upper()}{note[1:]}."
