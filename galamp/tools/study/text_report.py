"""The study as text and charts.

report --show--> tables; rows of a block --charts--> Charts, one for each game
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from rich.text import Text

from galamp.telemetry.display.console import plain_table, table_console
from galamp.telemetry.display.text import UNKNOWN, count, duration
from galamp.tools.plot.charts import AXIS_LABELS, Chart, mean_line
from galamp.tools.study.report import SHARES, Study
from galamp.tools.study.rows import Row, by_game

ALL_GAMES = "all games"
SCALE_NOTE = (
    "Scores: 0 is random actions, 1 the reference, tuned A2C with 16 environments on seeds of its "
    "own; interquartile mean [95 % bootstrap interval] over runs. Final: whole games of one "
    "learner that the seed draws. Area: mean of the training score over the run. Above: how many "
    "runs end above a quarter, a half and three quarters."
)
ABOVE = "above \u00bc, \u00bd, \u00be"


def show(found: Mapping[str, Any], file: TextIO, width: int | None = None) -> None:
    """Write the tables of `report`."""
    console = table_console(file, width)
    table = plain_table(("hypothesis", "p", "p (Holm)", "verdict", "found"), text=(0, 3, 4))
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
    if found["pong"]:
        console.print(_pong(found["pong"]))
    if found["rates"]:
        console.print(_rates(found["rates"]))
    done = ", ".join(
        f"{name} {of['done']} of {of['planned']}" for name, of in found["runs"].items()
    )
    console.print(Text(f"Runs: {done}. Violations of the certificate: {found['violations']}."))


def _arms(rows: Sequence[Mapping[str, Any]]) -> Any:
    headings = ("game", "arm", "runs", "final", "of the mean", "area", ABOVE, "ball")
    table = plain_table(headings, text=(0, 1))
    games = list(dict.fromkeys(row["game"] for row in rows))
    for game in games:
        for row in rows:
            if row["game"] == game:
                table.add_row(
                    game or ALL_GAMES,
                    row["arm"],
                    str(row["runs"]),
                    *(_amount(row[name]) for name in ("final", "mean_of_learners", "area")),
                    ", ".join(str(row["above"][f"{share:g}"]["runs"]) for share in SHARES),
                    UNKNOWN if row["ball"] is None else f"{row['ball']:.2g}",
                )
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
    table = plain_table(("Pong", "runs", "came to +15", "median agent steps", "median time"))
    for row in rows:
        table.add_row(
            row["arm"],
            str(row["runs"]),
            str(row["reached"]),
            UNKNOWN if row["steps"] is None else count(int(row["steps"])),
            UNKNOWN if row["seconds"] is None else duration(row["seconds"]),
        )
    return table


def _rates(rates: Mapping[str, Mapping[float, float]]) -> Any:
    table = plain_table(("tuned", "learning rate: worth", "taken"), text=(0, 1))
    for arm, of in rates.items():
        tried = ", ".join(f"{rate:g}: {worth:.2f}" for rate, worth in of.items())
        table.add_row(arm, tried, f"{max(sorted(of), key=of.__getitem__):g}")
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
    """Return the known points of a stored curve, over agent steps."""
    values = np.array([np.nan if at is None else at for at in row.curve])
    steps = row.total_steps * np.arange(1, len(values) + 1) / len(values)
    known = np.isfinite(values)
    return steps[known], values[known]
