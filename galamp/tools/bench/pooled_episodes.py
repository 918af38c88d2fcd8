"""Training episodes of all nodes of a run together, for `bin/bench learning`.

    rows of node 0, monitor files of all nodes --pooled--> rows with the mean return over all nodes

Each node's rows of metrics hold the returns of its own learners. The last 100 episodes of one of
two nodes began about twice as long ago as the last 100 of both, so where returns rise their mean
is lower, and a bar is found to be reached later. Nodes here are on one machine, so one clock orders
their episodes.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from galamp.core.json_values import is_number, is_whole
from galamp.storage.monitor_log import MONITOR, MonitorEpisode, read_monitor
from galamp.storage.run_folder import METRICS
from galamp.storage.run_logs import EPISODES, LARGEST, MAX_STEP, RETURN, read_metrics
from galamp.telemetry.snapshot import EPISODES_IN_MEAN

WINDOW = EPISODES_IN_MEAN
"""Number of training episodes of a mean that counts."""

Row = dict[str, Any]


def reaches(row: Row, bar: float) -> bool:
    """Whether a row has a mean return of enough episodes that is not below the bar."""
    score = row.get(RETURN)
    enough = is_whole(row.get(EPISODES), WINDOW, MAX_STEP)
    return enough and is_number(score, -LARGEST, LARGEST) and score >= bar


def pooled_rows(folders: Sequence[Path]) -> Iterator[Row]:
    """Return the rows of node 0 with the episodes of all; `folders` are the nodes' run folders."""
    return pooled(read_metrics(folders[0] / METRICS), list(map(episodes_of, folders)))


def has_reached(folders: Sequence[Path], bar: float) -> bool:
    """Whether a run of several nodes, which may go on, has a row that reaches the bar.

    Rows count that are no younger than the last episode that each node has written, since such a
    row stays as it is.
    """
    nodes = list(map(episodes_of, folders))
    if not all(nodes):
        return False
    settled_s = min(episodes[-1].ended_s for episodes in nodes)
    count = sum(episode.ended_s <= settled_s for episodes in nodes for episode in episodes)
    rows = pooled(read_metrics(folders[0] / METRICS), nodes)
    return any(reaches(row, bar) and row[EPISODES] <= count for row in rows)


def pooled(rows: Iterable[Row], nodes: Sequence[Sequence[MonitorEpisode]]) -> Iterator[Row]:
    """Return rows of node 0 with the number and mean return of the episodes of all nodes.

    A row is as old as the last of node 0's episodes that it counts.

    Args:
        rows: of metrics, of node 0.
        nodes: the episodes of each node, by time, node 0's first.
    """
    first, every = nodes[0], sorted(episode for node in nodes for episode in node)
    times = [episode.ended_s for episode in every]
    for row in rows:
        own = row.get(EPISODES)
        if not (is_whole(own, 1, MAX_STEP) and first):
            yield row
            continue
        count = bisect.bisect_right(times, first[min(own, len(first)) - 1].ended_s)
        last = every[max(0, count - WINDOW) : count]
        mean = sum(episode.score for episode in last) / len(last)
        yield row | {EPISODES: count, RETURN: mean}


def episodes_of(folder: Path) -> list[MonitorEpisode]:
    """Return the episodes of a run folder, by time."""
    files = (folder / MONITOR).glob("*.csv")
    return sorted(episode for path in files for episode in read_monitor(path))
