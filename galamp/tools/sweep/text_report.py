"""The end of a sweep as text and charts: a table of environments and arms, and a chart for each.

results --show--> tables; groups of runs --charts_of--> Charts, for the terminal or a figure
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TextIO

from rich.text import Text

from galamp.core.sanitize import clean
from galamp.telemetry.display.console import plain_table, table_console
from galamp.telemetry.display.text import UNKNOWN, count, duration, score
from galamp.tools.plot.charts import Chart, chart_of_groups
from galamp.tools.plot.metrics import SCORE
from galamp.tools.sweep.ledger import Ledger
from galamp.tools.sweep.planned import Sweep
from galamp.tools.sweep.results import groups_of

HEADINGS = ("environment", "arm", "score", "eval", "agent steps", "time", "runs")
NOTE = (
    "Over seeds: interquartile mean [95 % bootstrap interval] of the mean score of the last 100 "
    "training episodes and of the best evaluation; median agent steps and time."
)
FEW_SEEDS = 5
"""Intervals of fewer seeds are too narrow."""


def show(result: dict[str, Any], file: TextIO, width: int | None = None) -> None:
    """Write the tables of `results`."""
    console = table_console(file, width)
    evaluated = any(row["eval"] for row in result["arms"])
    headings = [name for name in HEADINGS if evaluated or name != "eval"]
    table = plain_table(headings, text=(0, 1, len(headings) - 1))
    for row in result["arms"]:
        cells = [clean(row["env_id"].rpartition("/")[2]), row["arm"], _amount(row["score"])]
        cells += [_amount(row["eval"])] if evaluated else []
        steps = row["agent_steps"]
        cells += [UNKNOWN if steps is None else count(steps), duration(row["wall_s"])]
        table.add_row(*cells, ", ".join(f"{n} {state}" for state, n in row["states"].items()))
    console.print(table)
    for text in result["statements"]:
        console.print(Text(text))
    console.print(Text(NOTE, "dim"))
    seeds = [row["score"]["seeds"] for row in result["arms"] if row["score"]]
    if seeds and 1 < min(seeds) < FEW_SEEDS:
        console.print(Text(f"Intervals of fewer than {FEW_SEEDS} seeds are too narrow.", "dim"))
    for run in result["runs"]:
        if run["failure"]:
            console.print(Text(f"{run['run']} failed: {clean(run['failure'])}"))


def charts_of(sweep: Sweep, ledger: Ledger) -> list[Chart]:
    """Return a chart of the score for each environment: the mean of each arm, and a band."""
    charts = []
    for env_id in sweep.games:
        groups = groups_of(sweep, ledger, env_id)
        chart = chart_of_groups(groups, SCORE, "steps", "stderr")
        if chart.lines:
            charts.append(replace(chart, title=f"{clean(env_id)}: {chart.title}"))
    return charts


def _amount(found: dict[str, Any] | None) -> str:
    if found is None:
        return UNKNOWN
    if found["interval"] is None:
        return score(found["iqm"])
    low, high = found["interval"]
    return f"{score(found['iqm'])} [{score(low)}, {score(high)}]"
