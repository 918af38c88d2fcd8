"""Every metric name that commands and the dashboard read is one that a run can write."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from galamp.algorithms import ALGORITHMS, config_class
from galamp.core.normalisation import NORMALISER_GAUGES
from galamp.memory.metrics import POLICY_LAG
from galamp.storage.run_history import FORMER, START
from galamp.telemetry.metrics_row import metrics_row
from galamp.tools.plot.runs import load
from galamp.tools.report.content import content
from galamp.tools.run_folders.picture import picture
from galamp.tools.run_folders.record import read_record
from tests.support.finished import finished_run
from tests.support.snapshots import busy

PACKAGE = Path(__file__).resolve().parents[2] / "galamp"
READERS = ("tools", "telemetry/display", "storage")

NO_METRICS = re.compile(
    r"(bin|image|video|tcp)/.*"  # a command, a kind of file, an address
    r"|(steps|frames)/s|joules/frame|frames/J"  # a unit
)


def written() -> set[str]:
    """All names that the rows of some run have; learners' own are those of learner 0."""
    gauges = {name for each in ALGORITHMS for name in config_class(each).gauges}
    gauges |= {POLICY_LAG, *NORMALISER_GAUGES}
    row = metrics_row(dataclasses.replace(busy(1), losses=dict.fromkeys(gauges, 1.0)), 0.0)
    return {*row, START}


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a module's strings, but no docstring; `{}` stands for what a string is filled with."""
    tree = ast.parse(path.read_text())
    seen = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in seen:
            continue
        if isinstance(node, ast.JoinedStr):
            seen |= set(map(id, node.values))
            parts = (x.value if isinstance(x, ast.Constant) else "{}" for x in node.values)
            yield node.lineno, "".join(map(str, parts))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_commands_read_metrics_that_runs_write() -> None:
    known = written() | set(FORMER)
    read = {}
    for path in (each for folder in READERS for each in (PACKAGE / folder).rglob("*.py")):
        for line, text in strings(path):
            name = re.sub(r"^learner(\{\}|\d+)/", "learner0/", text)
            if re.fullmatch(r"[a-z]+0?/\w+", name) and not NO_METRICS.fullmatch(name):
                read[name] = f"{path.relative_to(PACKAGE)}:{line}"
    assert {"charts/SPS", "learner0/updates", "gossip/certificate"} <= set(read)
    assert {name: place for name, place in read.items() if name not in known} == {}


class Asked(dict[str, Any]):
    """A row that keeps the names it was asked for."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)


def test_show_and_report_ask_a_row_for_what_it_has(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "run", [1.0])
    record = read_record(path)
    row = Asked(record.row)
    record = dataclasses.replace(record, row=row)
    picture(record, 80)
    # Of a run without rows, no plots are drawn: they take a second.
    [young] = load([finished_run(tmp_path / "young", [])])
    content(record, young, None)
    assert {"learner1/distance", "learner0/incarnation"} <= row.names
    assert row.names - set(row) == set()
