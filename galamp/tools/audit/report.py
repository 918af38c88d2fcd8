"""Report of `galamp audit`: the audit as one JSON object, and that object as text of 80 columns.

Runs in the process of `galamp audit`.

    Audit --summary--> object --lines--> text
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from galamp.core.disk import finite
from galamp.core.sanitize import clean
from galamp.telemetry.display.console import plain_table, text_lines
from galamp.telemetry.display.quantities import CERTIFICATE, CONSENSUS_DISTANCE, PAIRWISE_DISTANCE
from galamp.telemetry.display.text import UNKNOWN, clip, clip_path
from galamp.tools.audit.across import Crossing
from galamp.tools.audit.audit import Audit, Series

WIDTH = 80
SHOWN = 10
"""Number of violations, and of faults of the record, that are shown line by line."""

LABELS = {"to_mean": CONSENSUS_DISTANCE, "pairwise": PAIRWISE_DISTANCE}
ALLOWANCE = "certificate * (1 + 1e-5) + 1e-6 * norm of the mean"


def summary(run: Path, audit: Audit) -> dict[str, Any]:
    """Return all results of the audit; unknown values are None."""
    measurements = len(audit.series)
    found = {
        "run": str(run),
        "passed": audit.passed,
        "starts": audit.starts,
        "learners": audit.replay.learners,
        "topology": audit.topology,
        "sync": audit.sync,
        "publications": audit.publications,
        "mixes": audit.mixes,
        "messages": audit.messages,
        "lost": audit.lost,
        "rebased": audit.rebased,
        "forced_drops": audit.replay.forced,
        "rounded": {"vectors": audit.rounded, "greatest": audit.most_rounded},
        "measurements": measurements,
        "certified": audit.certified,
        "not_certified": measurements - audit.certified,
        "certified_by_run": audit.recorded,
        "distances": {name: _statistics(audit.series, name) for name in LABELS},
        "violation_count": audit.violation_count,
        "violations": [violation._asdict() for violation in audit.violations],
        "fault_count": audit.fault_count,
        "faults": [fault._asdict() for fault in audit.faults],
        "allowed": ALLOWANCE,
        "influence": {
            "exact": audit.influence.exact,
            "outer_steps": audit.influence.outer,
            "placed": audit.influence.placed,
            "unknown": audit.influence.unknown,
            "learners": [share._asdict() for share in audit.influence.shares()],
        },
    }
    checked: dict[str, Any] = finite(found)
    return checked


def _statistics(series: Series, name: str) -> dict[str, float]:
    measured, certificate = series.column(name), series.column(f"{name}_bound")
    ratio, recorded = series.column(f"{name}_ratio"), series.column(f"{name}_recorded")
    with np.errstate(all="ignore"):
        share = recorded / certificate
    return {
        "measured_median": _of(np.median, measured),
        "certificate_median": _of(np.median, certificate),
        "ratio_median": _of(np.median, ratio),
        "ratio_greatest": _of(np.max, ratio),
        "recorded_over_recomputed_median": _of(np.median, share),
        "recorded_over_recomputed_least": _of(np.min, share),
        "recorded_over_recomputed_greatest": _of(np.max, share),
    }


def _of(statistic: Any, values: Any) -> float:
    """Return a statistic of the known values; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(statistic(known)) if len(known) else float("nan")


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the report."""
    yield "run           " + clip_path(clean(found["run"]), WIDTH - 14)
    pace = "lock-step" if found["sync"] else "asynchronous"
    graph = clip(clean(found["topology"]), 30)
    yield f"learners      {found['learners']:,}, {graph or UNKNOWN}, {pace}; " + _count(
        found["starts"], "start"
    )
    mixes, messages = _count(found["mixes"], "mix", "mixes"), _count(found["messages"], "message")
    yield f"publications  {found['publications']:,}, with {mixes} of {messages}"
    if found["lost"] or found["rebased"]:
        yield f"lost          {_count(found['lost'], 'vector')}, {found['rebased']:,} found again"
    yield (
        f"measurements  {found['measurements']:,}: {found['certified']:,} certified, "
        f"{found['not_certified']:,} not; by the run itself {found['certified_by_run']:,}"
    )
    if found["rounded"]["vectors"]:
        vectors = _count(found["rounded"]["vectors"], "vector")
        yield f"rounded       {vectors} on the way from other machines, each by at most"
        yield (
            f"              {_number(found['rounded']['greatest'])}: so much farther may those be "
            "that were published"
        )
    if found["forced_drops"]:
        dropped = _count(found["forced_drops"], "update")
        yield f"memory full   {dropped} dropped early, bounded coarsely"
    yield ""
    yield from _tables(found["distances"])
    yield from _influence(found["influence"])
    yield from _violations(found)
    yield from _faults(found)
    yield ""
    yield _verdict(found)


def across_lines(between: Sequence[Crossing]) -> Iterator[str]:
    """Yield the report of what has come over between nodes."""
    table = plain_table(("machine", "took from", "vectors", "published", "unknown", "false"))
    for one in between:
        sizes = one.vectors, one.found, one.unknown, one.false
        table.add_row(str(one.receiver), str(one.sender), *(f"{size:,}" for size in sizes))
    yield from text_lines(table, WIDTH)
    yield "Published: by the other machine's record, in the same order. Unknown: that one"
    yield "has a gap there, or ends before. False: it has no vector of such a round and"
    yield "number of updates, or of an earlier place."
    yield ""
    false = sum(one.false for one in between)
    yield f"{_count(false, 'vector')} that nobody published" if false else "all agrees"


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _tables(distances: dict[str, Any]) -> Iterator[str]:
    table = plain_table(
        ("L2 distance", "measured", CERTIFICATE, "ratio: median", "ratio: greatest")
    )
    keys = ("measured_median", "certificate_median", "ratio_median", "ratio_greatest")
    for name, label in LABELS.items():
        table.add_row(label, *(_number(distances[name][key]) for key in keys))
    yield from text_lines(table, WIDTH)
    yield f"Medians over measurements; {CONSENSUS_DISTANCE}: root mean square to the mean,"
    yield "but for ratio: the worst learner's. Ratio: measured over what is allowed,"
    yield f"{ALLOWANCE}, for float32 rounding."
    yield ""
    statistics = ("median", "least", "greatest")
    table = plain_table(("run's certificate over recomputed", *statistics))
    for name, label in LABELS.items():
        found = (distances[name][f"recorded_over_recomputed_{each}"] for each in statistics)
        table.add_row(label, *map(_number, found))
    yield from text_lines(table, WIDTH)


def _influence(found: dict[str, Any]) -> Iterator[str]:
    shares = found["learners"]
    if len(shares) < 2:
        return
    yield ""
    yield "influence on the mean of all    updates     share    influence     ratio"
    ratios = {id(s): s["of_influence"] / s["of_updates"] for s in shares if s["of_updates"]}
    far = sorted(shares, key=lambda share: -abs(ratios.get(id(share), 1.0) - 1.0))[:SHOWN]
    for share in sorted(far, key=lambda share: int(share["learner"])):
        learner, ratio = f"learner {share['learner']}", ratios.get(id(share))
        yield (
            f"{learner:25}{share['updates']:>14,.0f}"
            f"{share['of_updates']:>10.1%}{share['of_influence']:>13.1%}{_number(ratio):>10}"
        )
    if (more := len(shares) - len(far)) > 0:
        yield f"... and {more:,} more, whose ratios are nearer to 1"
    yield "Since the last start: updates of the optimiser, and the same times their weights"
    yield "in the mean of the last vectors, by the recorded mixes."
    if found["outer_steps"]:
        yield "Estimated: outer steps take the place of averages, and are not followed."
    if found["placed"] or found["unknown"]:
        yield (
            f"Estimated: {_count(found['placed'], 'vector')} placed by measurement, "
            f"{_count(found['unknown'], 'publication')} unknown."
        )


def _violations(found: dict[str, Any]) -> Iterator[str]:
    shown = found["violations"][:SHOWN]
    if not shown:
        return
    yield ""
    headings = ("start", "wall s", "agent steps", "learner", "measured", "certificate", "whose")
    table = plain_table(headings, text=[6])
    for each in shown:
        learner = "pair" if each["learner"] is None else str(each["learner"])
        when = str(each["start"]), f"{each['wall_s']:.1f}", f"{each['global_step']:,}"
        distances = f"{each['measured']:.5g}", f"{each['certificate']:.5g}"
        table.add_row(*when, learner, *distances, each["by"])
    yield from text_lines(table, WIDTH)
    if (more := found["violation_count"] - len(shown)) > 0:
        yield f"... and {more:,} more"


def _faults(found: dict[str, Any]) -> Iterator[str]:
    shown = found["faults"][:SHOWN]
    if not shown:
        return
    yield ""
    for each in shown:
        yield clip(f"gossip.jsonl line {each['line']:,}: {clean(each['wrong'])}", WIDTH)
    if (more := found["fault_count"] - len(shown)) > 0:
        yield f"... and {more:,} more"


def _verdict(found: dict[str, Any]) -> str:
    violations, faults = found["violation_count"], found["fault_count"]
    incomplete = f"log is incomplete: {_count(faults, 'fault')}"
    if violations:
        told = _count(violations, "violation")
        return f"{told}; {incomplete}" if faults else told
    if faults:
        return f"{incomplete}; no violation among {_count(found['certified'], 'measurement')}"
    if not found["certified"] and not found["certified_by_run"]:
        return "no violation: nothing was certified"
    ratios = [row["ratio_greatest"] for row in found["distances"].values()]
    greatest = max((ratio for ratio in ratios if ratio is not None), default=None)
    checked = _count(found["certified"], "certified measurement")
    return f"no violation: {checked}, greatest ratio {_number(greatest)}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4g}"
