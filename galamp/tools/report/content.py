"""Content of a report: what the files of a run tell, as sections of a page.

    RunRecord, Run, events, evaluations, clip --content--> sections --page.document--> HTML

Everything is read from the run's files; what is damaged is left out, as in `galamp show`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import galamp
from galamp.core.errors import UserError
from galamp.core.settings import Setting
from galamp.storage.event_log import KeptEvent, read_events
from galamp.storage.run_folder import EVENTS
from galamp.telemetry.display.quantities import CERTIFICATE, PAIRWISE_DISTANCE
from galamp.telemetry.display.text import UNKNOWN, duration
from galamp.telemetry.snapshot import Snapshot
from galamp.tools.plot.charts import chart_of_runs, with_references
from galamp.tools.plot.figure import draw
from galamp.tools.plot.metrics import SCORE, TITLES
from galamp.tools.plot.runs import Run
from galamp.tools.report import page
from galamp.tools.report.clips import Clip
from galamp.tools.report.page import Html
from galamp.tools.run_folders.evaluations import evaluations
from galamp.tools.run_folders.next_steps import next_steps
from galamp.tools.run_folders.picture import snapshot_of
from galamp.tools.run_folders.record import RunRecord
from galamp.tools.run_folders.report import history
from galamp.tools.run_folders.run_settings import Values, differing, flags_of
from galamp.tools.run_folders.sizes import size_of, size_text

MAX_EVENTS = 1000
MAX_FILES = 100
PLOTS = (
    SCORE, "charts/SPS", "losses/entropy", "losses/value_loss", "gossip/consensus_distance",
)  # fmt: skip
"""Metrics that are drawn, where the run has them."""


def content(record: RunRecord, run: Run, clip: Clip | None) -> bytes:
    """Return the page of a run."""
    past = history(read_events(record.path / EVENTS), MAX_EVENTS)
    ended = record.summary.get("reason") or record.summary.get("failure")
    shown = snapshot_of(record)
    return page.document(
        f"{shown.env_id}: {run.label}",
        page.paragraph(f"{record.state}: {ended}" if ended else str(record.state)),
        page.facts(_facts(record, shown)),
        page.section("Plots", *_plots(run)),
        page.section("Clip", *_clip(clip)),
        page.section("Learners", _learners(record)),
        page.section("Evaluations", page.table(["result"], ([x] for x in evaluations(run.path)))),
        *_settings(record),
        page.section("Commands, one per start", page.commands(past.commands)),
        page.section(_title(len(past.events), past.number), _events(past.events)),
        page.section("Files", _files(record.path)),
        page.section("Next", *_next(record)),
        page.paragraph(f"made by galamp {galamp.__version__} from {record.path}", quiet=True),
    )


def _facts(record: RunRecord, shown: Snapshot) -> Iterator[tuple[str, str]]:
    """Yield the numbers of the run."""
    yield "score, mean of the last 100 episodes", _number(shown.mean_return)
    yield "best of these means", _number(shown.best_mean_return)
    yield "episodes", f"{shown.episodes:,}"
    yield "agent steps", f"{shown.agent_steps:,} of {shown.total_steps:,}"
    yield "emulator frames", f"{shown.agent_steps * shown.frames_per_step:,}"
    yield "training time", duration(shown.elapsed_s)
    yield "agent steps/s", f"{shown.agent_steps_per_s:,.0f}"
    yield "learners", UNKNOWN if record.learners is None else str(record.learners)
    yield "seed", str(record.config.get("seed", UNKNOWN))
    yield "restarts", str(shown.restarts)
    yield PAIRWISE_DISTANCE, _number(shown.consensus.pairwise)
    yield CERTIFICATE, _number(shown.consensus.certificate)
    yield "protocol", shown.protocol


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.6g}"


def _plots(run: Run) -> Iterator[Html]:
    """Yield a picture per metric that the run has."""
    for metric in PLOTS:
        if metric not in run.history.names:
            continue
        chart = with_references(chart_of_runs([run], metric, "steps", False), metric, [run])
        if chart.lines:
            yield page.picture(draw([chart], "svg"), "image/svg+xml", TITLES.get(metric, metric))


def _clip(clip: Clip | None) -> Iterator[Html]:
    if clip is not None:
        yield page.clip(clip.content, clip.kind, clip.name)


def _learners(record: RunRecord) -> Html:
    """Return what the last row of metrics has of each learner."""
    names = ("agent_steps", "SPS", "episodic_return", "staleness", "incarnation", "distance")
    ranks = itertools.takewhile(lambda r: f"learner{r}/SPS" in record.row, itertools.count())
    rows = [
        [rank, *(_cell(record.row.get(f"learner{rank}/{name}")) for name in names)]
        for rank in ranks
    ]
    headings = ["learner", "agent steps", "steps/s", "score", "staleness", "restarts", "distance"]
    return page.table(headings, rows, numbers=range(len(headings)))


def _cell(value: object) -> str:
    if type(value) is int:
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else UNKNOWN


def _settings(record: RunRecord) -> Iterator[Html]:
    try:
        found = differing(record.config)
    except UserError as error:
        yield page.section("Settings", page.paragraph(f"config.json cannot be used: {error}"))
        return
    yield page.section("Settings that differ from the defaults", _flags(found.given))
    yield page.section("Chosen for this run, by galamp or by flags", _flags(found.open))


def _flags(values: Values) -> Html:
    rows = zip(flags_of(values), map(_meaning, values), strict=True)
    return page.table(["setting", "meaning"], rows)


def _meaning(value: tuple[Setting, object]) -> str:
    setting, _ = value
    return setting.option.help


def _title(shown: int, number: int) -> str:
    return "Events" if shown == number else f"Events, the last {shown:,} of {number:,}"


def _events(events: list[KeptEvent]) -> Html:
    rows = (
        [each.time[:19].replace("T", " "), duration(each.wall_s), each.kind, each.text]
        for each in events
    )
    return page.table(["time", "training time", "kind", "what"], rows)


def _files(run: Path) -> Html:
    try:
        entries = sorted(run.iterdir())[:MAX_FILES]
    except OSError:
        return Html("")
    rows = ([size_text(size_of(path)), path.name + "/" * os.path.isdir(path)] for path in entries)
    return page.table(["size", "name"], rows, numbers=(0,))


def _next(record: RunRecord) -> Iterator[Html]:
    for command, what in next_steps(record):
        yield page.paragraph(f"{what}:")
        yield page.commands([command])
