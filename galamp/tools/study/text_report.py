"""The study as text and charts.

report --show--> tables; rows of a block --charts--> Charts, one for each game
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from rich.text import Text

from galamp.telemetry.display.console import plain_table, table_console
from galamp.telemetry.display.text import UNKNOWN, count, duration
from galamp.tools.plot.charts import AXIS_LABELS, Chart, mean_line
from galamp.tools.study import tuning
from galamp.tools.study.arms import SHARES
from galamp.tools.study.rows import Row, by_game
from galamp.tools.study.sensitivity import ARMS
from galamp.tools.study.study import Study

ALL_GAMES = "all games"
SCALE_NOTE = (
    "Scores: 0 is random actions, 1 the reference, tuned A2C with 16 environments on seeds of its "
    "own; interquartile mean [95 % bootstrap interval] over runs. Final: whole games of one "
    "learner that the seed draws. Area: mean of the training score over the run. Above: how many "
    "runs end above a quarter, a half and three quarters. All games: only seeds that every game of "
    "the arm has. Learners: each by itself; the best one is not known before."
)
BALL_NOTE = (
    "Ball: distance of the learners to their mean, root mean square, of all measurements, beside "
    "the certificate of those that have one, and over the norm of all parameters' mean at the end; "
    "medians over each run, then over runs."
)
SENSITIVITY_NOTE = (
    "To reach, in H1: halfway from random actions to the median of the reference runs. Only games "
    "in which some runs end above and some do not tell anything. Other rules explore and decide "
    "nothing; their p is not corrected."
)
PONG_NOTE = (
    "Agent steps/s: of the arms in turns on one machine, alone; time: agent steps over that. As "
    "trained: medians of the runs' own times, of machines of different speed, some beside others."
)
MAX_ROWS = 10
ABOVE = "above \u00bc, \u00bd, \u00be"


def show(found: Mapping[str, Any], file: TextIO, width: int | None = None) -> None:
    """Write the tables of `report`."""
    console = table_console(file, width)
    table = plain_table(
        ("hypothesis", "p", "p (Holm), at most", "verdict", "found"), text=(0, 3, 4)
    )
    for each in found["decisions"]:
        table.add_row(
            each["name"], _p(each["p"]), _p(each["corrected"]), each["verdict"], each["found"]
        )
    console.print(table)
    for each in found["decisions"]:
        console.print(Text(f"{each['name']}: {each['claim']}."))
    for block in dict.fromkeys(row["block"] for row in found["arms"]):
        console.print(Text(f"\n{block}"))
        rows = [row for row in found["arms"] if row["block"] == block]
        console.print(_arms(rows))
        if any(row["correlation"] is not None or None not in row["sharpness"] for row in rows):
            console.print(_disagreement(rows))
    if found["arms"]:
        console.print(Text(SCALE_NOTE, "dim"))
    if found["other_rules"]:
        console.print(_to_reach(found["to_reach"]))
        console.print(_other_rules(found["other_rules"]))
        console.print(Text(SENSITIVITY_NOTE, "dim"))
    if found["pong"]:
        console.print(_pong(found["pong"]))
        console.print(Text(PONG_NOTE, "dim"))
    if found["atari"]:
        console.print(_atari(found["atari"]))
    if found["balls"]:
        console.print(_balls(found["balls"]))
        console.print(Text(BALL_NOTE, "dim"))
    if found["rates"]:
        console.print(_rates(found["rates"], found["tuning_missing"]))
    console.print(_blocks(found["runs"]))
    console.print(Text(_certificate(found["certificate"])))
    for line in (*_left_out(found["left_out"]), *_other_defaults(found["other_defaults"])):
        console.print(Text(line))


def _blocks(runs: Mapping[str, Mapping[str, Any]]) -> Any:
    table = plain_table(("block", "runs", "planned", "settings", "rows made at"), text=(0, 3, 4))
    for name, of in runs.items():
        commits = ", ".join(f"{commit} ({count})" for commit, count in of["commits"].items())
        table.add_row(name, str(of["done"]), str(of["planned"]), of["settings"], commits or UNKNOWN)
    return table


def _certificate(found: Mapping[str, int]) -> str:
    text = (
        f"Certificate, by the audit of {found['runs']} runs: {found['violations']} violations, "
        f"{found['certified']:,} measurements certified, {found['not_certified']:,} not, "
        f"{found['faults']} faults of the record."
    )
    if found["not_told"]:
        text += f" Of {found['not_told']} of the runs only violations were kept."
    return text


def _left_out(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield which stored rows do not count, a line each, of many the first."""
    if rows:
        yield f"Left out: {len(rows)} stored rows, which count nowhere above."
        yield from _some(rows)


def _other_defaults(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield which rows count though defaults have changed since, a line each, of many the first."""
    if rows:
        yield f"Other defaults than this galamp's: {len(rows)} rows, which count all the same."
        yield from _some(rows)


def _some(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for each in rows[:MAX_ROWS]:
        yield f"  {each['block']}: {each['row']}: {each['why']}"
    if len(rows) > MAX_ROWS:
        yield f"  and {len(rows) - MAX_ROWS} more: bin/study check shows them"


def _arms(rows: Sequence[Mapping[str, Any]]) -> Any:
    headings = ["game", "arm", "runs", "final", "of the mean", "area", ABOVE]
    each = any(row["learners"] for row in rows)
    if each:
        headings += ["learners: mean", "best"]
    table = plain_table(headings, text=(0, 1))
    games = list(dict.fromkeys(row["game"] for row in rows))
    for game in games:
        for row in rows:
            if row["game"] == game:
                learners = row["learners"] or {"mean": None, "best": None}
                table.add_row(
                    game or ALL_GAMES,
                    row["arm"],
                    str(row["runs"]),
                    *(_amount(row[name]) for name in ("final", "mean_of_learners", "area")),
                    ", ".join(str(row["above"][f"{share:g}"]["runs"]) for share in SHARES),
                    *([_amount(learners[name]) for name in ("mean", "best")] if each else []),
                )
    return table


def _to_reach(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return what runs of H1 had to reach, and how many did."""
    headings = ("game", "random", "reference runs", "to reach", *ARMS)
    table = plain_table(headings, text=(0,))
    for row in rows:
        reference = f"{row['least']:.2f}, {row['reference']:.2f}, {row['most']:.2f}"
        above = (f"{row['above'][arm]} of {row['runs'][arm]}" for arm in ARMS)
        table.add_row(
            row["game"], f"{row['random']:.2f}", reference, f"{row['to_reach']:.2f}", *above
        )
    return table


def _other_rules(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return what other rules of H1 would have found."""
    table = plain_table(("H1 by", *ARMS, "p"), text=(0,))
    for row in rows:
        above = (f"{row['above'][arm]} of {row['runs'][arm]}" for arm in ARMS)
        table.add_row(row["rule"], *above, _p(row["p"]))
    return table


def _balls(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return how close learners stay, by what runs are made of."""
    headings = ("block", "arm", "game", "runs", "learners", "envs each", "graph", "every", "ball",
                "certificate", "ball / norm")  # fmt: skip
    table = plain_table(headings, text=(0, 1, 2, 6))
    for row in rows:
        numbers = (row[name] for name in ("ball", "certificate", "relative"))
        shape = (row[name] for name in ("learners", "num_envs", "topology", "gossip_every"))
        table.add_row(
            row["block"], row["arm"], row["game"], str(row["runs"]),
            *(UNKNOWN if value is None else str(value) for value in shape),
            *(UNKNOWN if value is None else f"{value:.2g}" for value in numbers),
        )  # fmt: skip
    return table


def _disagreement(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return how learners disagree: their gradients, and how the loss curves between them."""
    headings = ("game", "arm", "ball", "gradient correlation", "curvature: differences", "random")
    table = plain_table(headings, text=(0, 1))
    for row in rows:
        if row["game"]:
            values = (row["ball"], row["correlation"], *row["sharpness"])
            shown = (UNKNOWN if value is None else f"{value:.2g}" for value in values)
            table.add_row(row["game"], row["arm"], *shown)
    return table


def _pong(rows: Sequence[Mapping[str, Any]]) -> Any:
    headings = ("Pong", "runs", "came to +15", "median agent steps", "agent steps/s", "time",
                "time as trained")  # fmt: skip
    table = plain_table(headings, text=(0,))
    for row in rows:
        table.add_row(
            row["arm"],
            str(row["runs"]),
            str(row["reached"]),
            *(UNKNOWN if row[name] is None else count(int(row[name]))
              for name in ("steps", "steps_per_s")),
            *(UNKNOWN if row[name] is None else duration(row[name])
              for name in ("seconds", "seconds_as_trained")),
        )  # fmt: skip
    return table


def _atari(rows: Sequence[Mapping[str, Any]]) -> Any:
    headings = ("Atari", "arm", "seed", "score", "of the mean", "human-normalised", "published",
                "agent steps", "time")  # fmt: skip
    table = plain_table(headings, text=(0, 1))
    for row in rows:
        human = row["human_normalised_percent"]
        table.add_row(
            row["game"],
            row["arm"],
            str(row["seed"]),
            *(UNKNOWN if (score := row[name]) is None else f"{score:,.1f}"
              for name in ("score", "of_the_mean")),
            UNKNOWN if human is None else f"{human:.0f} %",
            UNKNOWN if row["published"] is None else f"{row['published']:,.0f}",
            count(row["agent_steps"]),
            duration(row["wall_s"]),
        )  # fmt: skip
    return table


def _rates(rates: Mapping[str, Mapping[float, float]], missing: Mapping[str, int]) -> Any:
    table = plain_table(("tuned", "learning rate: worth", "taken"), text=(0, 1))
    for arm, of in rates.items():
        tried = ", ".join(f"{rate:g}: {worth:.2f}" for rate, worth in of.items())
        count = missing.get(arm, 0)
        to_come = f"{UNKNOWN} ({count} run{'s' if count > 1 else ''} to come)"
        table.add_row(arm, tried, to_come if count else f"{tuning.best(of):g}")
    return table


def _p(p: float | None) -> str:
    return UNKNOWN if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _amount(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return UNKNOWN
    if found["interval"] is None:
        return f"{found['iqm']:.2f}"
    low, high = found["interval"]
    return f"{found['iqm']:.2f} [{low:.2f}, {high:.2f}]"


def charts(study: Study, block: str) -> list[Chart]:
    """Return a chart for each game of a block: the mean return of each arm, and its band."""
    rows = study.rows[block]
    arms = list(dict.fromkeys(cell.arm for cell in study.planned[block]))
    found = []
    for game in dict.fromkeys(cell.game for cell in study.planned[block]):
        lines = []
        for colour, arm in enumerate(arms):
            curves = [
                points
                for row in by_game(rows, arm).get(game, [])
                if len((points := _curve(row))[0])
            ]
            line = (
                mean_line(f"{arm} ({len(curves)} runs)", curves, colour, "stderr")
                if curves
                else None
            )
            lines += [line] if line is not None else []
        if lines:
            title = f"{game.replace('_', ' ')}: mean return of the last 100 training episodes"
            found.append(Chart(title, AXIS_LABELS["steps"], tuple(lines), {}))
    return found


def _curve(row: Row) -> tuple[Any, Any]:
    """Return the known points of a stored curve, over agent steps, as far as the run went."""
    values = np.array([np.nan if at is None else at for at in row.curve])
    steps = row.total_steps * np.arange(1, len(values) + 1) / len(values)
    known = np.isfinite(values) & (steps <= max(row.agent_steps, steps[0]))
    return steps[known], values[known]
