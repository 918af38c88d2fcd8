"""Training episodes of all nodes of a run together, for `bin/bench learning`.

    rows of node 0, monitor files of all nodes --pooled--> rows with the mean return over all nodes

Each node's rows of metrics hold the returns of its own learners. The last 100 episodes of one of
two nodes began about twice as long ago as the last 100 of both, so where returns rise their mean
is lower, and a bar is found to be reached later. Nodes here are on one machine, so one clock orders
their episodes. Pure but for `episodes_of`.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from galamp.core.json_values import is_whole
from galamp.storage.run_logs import EPISODES, MAX_STEP, RETURN


class Ended(NamedTuple):
    """Episode that ended at time.time() `at_s`."""

    at_s: float
    score: float


def pooled(
    rows: Iterable[dict[str, Any]], nodes: Sequence[Sequence[Ended]], window: int
) -> Iterator[dict[str, Any]]:
    """Return rows of node 0 with the number and mean return of the episodes of all nodes.

    A row is as old as the last of node 0's episodes that it counts.

    Args:
        rows: of metrics, of node 0.
        nodes: the episodes of each node, by time, node 0's first.
        window: number of last episodes of a mean.
    """
    first = nodes[0]
    every = sorted(episode for node in nodes for episode in node)
    times = [episode.at_s for episode in every]
    for row in rows:
        own = row.get(EPISODES)
        if not is_whole(own, 1, MAX_STEP):
            yield row
            continue
        count = bisect.bisect_right(times, first[min(own, len(first)) - 1].at_s) if first else 0
        last = every[max(0, count - window) : count]
        mean = sum(episode.score for episode in last) / len(last) if last else None
        yield row | {EPISODES: count, RETURN: mean}


def episodes_of(folder: Path) -> list[Ended]:
    """Return the episodes in a folder of monitor files, by time."""
    return sorted(episode for path in folder.glob("*.csv") for episode in _episodes(path))


def _episodes(path: Path) -> Iterator[Ended]:
    first, _, *lines = path.read_text().splitlines()
    began_s = json.loads(first[1:])["t_start"]
    for line in lines:
        score, _, after_s = line.split(",")
        yield Ended(began_s + float(after_s), float(score))
