"""A bar is reached by a run of several nodes when the episodes of all of them have reached it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galamp.storage.run_logs import EPISODES, RETURN, MonitorLog, monitor_name
from galamp.tools.bench.learning import WINDOW, result
from galamp.tools.bench.pooled_episodes import Ended, episodes_of, pooled

COUNT = 400


def run_of(nodes: int) -> list[list[Ended]]:
    """Episode k ends after k seconds and agent steps with score k, on each node in turn."""
    return [[Ended(float(k), float(k)) for k in range(node, COUNT, nodes)] for node in range(nodes)]


def rows_of(episodes: list[Ended]) -> list[dict[str, Any]]:
    """Return one row of node 0 after each of its episodes, of these alone."""
    scores = [episode.score for episode in episodes]
    return [
        {
            "global_step": int(episodes[done - 1].at_s),
            "wall_s": episodes[done - 1].at_s,
            EPISODES: done,
            RETURN: sum(scores[:done][-WINDOW:]) / len(scores[:done][-WINDOW:]),
        }
        for done in range(1, len(scores) + 1)
    ]


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_so_many_nodes_reach_a_bar_after_as_many_agent_steps_as_one(nodes: int) -> None:
    every = run_of(nodes)
    found = result(pooled(rows_of(every[0]), every, WINDOW), 300, COUNT)
    assert found.reached_at is not None
    assert 350 <= found.reached_at < 350 + nodes
    last = result(rows_of(every[0])[-1:], 300, COUNT).agent_steps
    assert found.agent_steps == last


def test_the_last_episodes_of_one_node_alone_are_older() -> None:
    every = run_of(2)
    assert result(rows_of(every[0]), 250, COUNT).reached_at == 350
    assert result(pooled(rows_of(every[0]), every, WINDOW), 250, COUNT).reached_at == 300


def test_few_episodes_of_all_nodes_do_not_count() -> None:
    every = [[Ended(float(k), 9.0) for k in range(node, 99, 2)] for node in range(2)]
    assert result(pooled(rows_of(every[0]), every, WINDOW), 5, COUNT).reached_at is None


def test_rows_without_episodes_stay_as_they_are() -> None:
    rows: list[dict[str, Any]] = [{"resumed_from": 0}, {EPISODES: 0, RETURN: None}]
    assert list(pooled(rows, run_of(2), WINDOW)) == rows


def test_a_node_whose_files_are_not_there_has_no_episodes(tmp_path: Path) -> None:
    assert episodes_of(tmp_path / "none") == []
    rows = [{EPISODES: 5, RETURN: 1.0}]
    assert list(pooled(rows, [[], []], WINDOW)) == [{EPISODES: 0, RETURN: None}]


def test_episodes_of_several_learners_are_in_the_order_of_their_ends(tmp_path: Path) -> None:
    for learner, began_s in enumerate([1000.0, 1001.0]):
        log = MonitorLog(tmp_path / monitor_name(learner), "Pong", began_s, print)
        for after_s in (5.0, 7.0):
            log.append(learner - 21.0, 800, began_s + after_s)
        log.flush()
    assert episodes_of(tmp_path) == [
        Ended(1005.0, -21.0), Ended(1006.0, -20.0), Ended(1007.0, -21.0), Ended(1008.0, -20.0),
    ]  # fmt: skip
