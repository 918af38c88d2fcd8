"""Picture of a run from its files: the dashboard's sections, as far as the files tell them.

RunRecord, rows of metrics.jsonl --snapshot_of--> Snapshot --picture--> lines of coloured text
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from galamp.core.sanitize import clean
from galamp.storage.eval_log import read_evaluations
from galamp.storage.learning_curve import thinned
from galamp.storage.run_folder import METRICS
from galamp.storage.run_logs import EPISODES, curve
from galamp.telemetry.display import panels
from galamp.telemetry.display.chart import score_chart
from galamp.telemetry.display.panels import LABEL_WIDTH, labelled
from galamp.telemetry.display.text import count, fit, measure, score
from galamp.telemetry.evaluations import reading_of
from galamp.telemetry.snapshot import ConsensusReading, Snapshot
from galamp.tools.run_folders.record import RunRecord, amount, whole_number

CHART_ROWS = 12
MAX_LEARNERS = 16
"""Learners that are listed one by one."""


def snapshot_of(record: RunRecord) -> Snapshot:
    """Return what the files tell of a run as a snapshot, without its learners."""
    row, summary = record.row, record.summary
    steps = record.agent_steps or 0
    frames = whole_number(row.get("emulator_frames")) or 0
    rate = record.number("agent_steps_per_s", "charts/SPS")
    resolved = record.config.get("resolved")
    protocol = resolved.get("protocol") if isinstance(resolved, dict) else None
    return Snapshot(
        env_id=record.env_id,
        protocol=protocol if isinstance(protocol, str) else "",
        run_dir=str(record.path),
        status=record.state,
        elapsed_s=record.number("wall_s", "wall_s") or 0.0,
        agent_steps=steps,
        total_steps=record.total_steps or 0,
        frames_per_step=frames // steps if steps and frames > steps else 1,
        agent_steps_per_s=rate or 0.0,
        episodes=int(record.number("episodes", EPISODES) or 0),
        mean_return=record.score,
        best_mean_return=amount(summary.get("best_mean_return_100")),
        mean_length=amount(row.get("charts/episodic_length")),
        curve=thinned(curve(record.path / METRICS).points),
        losses=_losses(row),
        consensus=ConsensusReading(
            pairwise=amount(row.get("gossip/pairwise_distance")),
            certificate=amount(row.get("gossip/certificate")),
            ratio=amount(row.get("gossip/certificate_ratio")),
        ),
        evaluation=reading_of(read_evaluations(record.path)),
        restarts=int(record.number("restarts", "charts/restarts") or 0),
    )


def picture(record: RunRecord, width: int) -> list[Text]:
    """Return the head, the numbers, the curve and the learners; no line is wider than `width`."""
    snapshot, room = snapshot_of(record), width - LABEL_WIDTH
    lines = [panels.headline(snapshot, width), *panels.run_dir(snapshot, width)]
    lines.append(panels.progress(snapshot, width))
    lines += labelled("speed", [fit(panels.speed(snapshot), room)])
    lines += labelled("score", [fit(panels.scores(snapshot), room)])
    lines += panels.evaluation(snapshot, width)
    lines += [Text(), *score_chart(snapshot, width, CHART_ROWS), Text()]
    lines += _learners(record, width)
    lines += labelled("gossip", [fit([panels.distance(snapshot.consensus)], room)])
    lines += labelled("losses", [fit(panels.losses(snapshot), room)])
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.rstrip()
    return lines


def _losses(row: dict[str, Any]) -> dict[str, float]:
    found = {
        name.removeprefix("losses/"): amount(value)
        for name, value in row.items()
        if name.startswith("losses/")
    }
    return {name: value for name, value in found.items() if value is not None}


def _learners(record: RunRecord, width: int) -> list[Text]:
    """Return a line per learner: what the last row of metrics has of it."""
    number = min(record.learners or 0, MAX_LEARNERS)
    lines = []
    for rank in range(number):
        known = {name: amount(record.row.get(f"learner{rank}/{name}")) for name in _OF_LEARNER}
        facts = [
            f"{words} {show(value)}"
            for (words, show), value in zip(_OF_LEARNER.values(), known.values(), strict=True)
            if value is not None
        ]
        lines.append(fit([f"{rank}", *facts] if facts else [f"{rank}", "-"], width - LABEL_WIDTH))
    if (more := (record.learners or 0) - number) > 0:
        lines.append(f"… and {more} more")
    return labelled("learners", [clean(line) for line in lines]) if lines else []


_OF_LEARNER = {
    "agent_steps": ("agent steps", count),
    "episodic_return": ("score", score),
    "staleness": ("stale", count),
    "distance": ("distance", measure),
    "incarnation": ("restarts", count),
}
"""Metric of a learner -> its name on the screen, and how its value is shown."""
