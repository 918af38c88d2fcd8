"""A bar is reached by a run of several nodes when the episodes of all of them have reached it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galamp.storage.monitor_log import MONITOR, MonitorEpisode, MonitorLog, monitor_name
from galamp.storage.run_folder import METRICS
from galamp.storage.run_logs import EPISODES, RETURN
from galamp.tools.bench.learning import result
from galamp.tools.bench.pooled_episodes import (
    WINDOW,
    episodes_of,
    has_reached,
    pooled,
    pooled_rows,
)

COUNT = 400

Episodes = list[MonitorEpisode]


def run_of(nodes: int) -> list[Episodes]:
    """Episode k ends after k seconds and agent steps with score k, on each node in turn."""
    return [
        [MonitorEpisode(float(k), float(k), 10) for k in range(node, COUNT, nodes)]
        for node in range(nodes)
    ]


def rows_of(episodes: Episodes) -> list[dict[str, Any]]:
    """Return one row of node 0 after each of its episodes, of these alone."""
    scores = [episode.score for episode in episodes]
    return [
        {
            "global_step": int(episodes[done - 1].ended_s),
            "wall_s": episodes[done - 1].ended_s,
            EPISODES: done,
            RETURN: sum(scores[:done][-WINDOW:]) / len(scores[:done][-WINDOW:]),
        }
        for done in range(1, len(scores) + 1)
    ]


def write(folder: Path, episodes: Episodes, learners: int = 1) -> None:
    """Write the files of a node, whose learners have had these episodes in turn."""
    (folder / MONITOR).mkdir(parents=True)
    for learner in range(learners):
        log = MonitorLog(folder / MONITOR / monitor_name(learner), "Pong", 0.0, print)
        for episode in episodes[learner::learners]:
            log.append(episode.score, episode.length, episode.ended_s)
        log.flush()
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows_of(episodes)))


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_so_many_nodes_reach_a_bar_after_as_many_agent_steps_as_one(nodes: int) -> None:
    every = run_of(nodes)
    found = result(pooled(rows_of(every[0]), every), 300, COUNT)
    assert found.reached_at is not None
    assert 350 <= found.reached_at < 350 + nodes
    assert found.agent_steps == every[0][-1].ended_s


def test_the_last_episodes_of_one_node_alone_are_older() -> None:
    every = run_of(2)
    assert result(rows_of(every[0]), 250, COUNT).reached_at == 350
    assert result(pooled(rows_of(every[0]), every), 250, COUNT).reached_at == 300


def test_few_episodes_of_all_nodes_do_not_count() -> None:
    every = [[MonitorEpisode(float(k), 9.0, 10) for k in range(node, 99, 2)] for node in range(2)]
    assert result(pooled(rows_of(every[0]), every), 5, COUNT).reached_at is None


def test_rows_without_episodes_stay_as_they_are() -> None:
    rows: list[dict[str, Any]] = [{"resumed_from": 0}, {EPISODES: 0, RETURN: None}]
    assert list(pooled(rows, run_of(2))) == rows
    rows = [{EPISODES: 5, RETURN: 1.0}]
    assert list(pooled(rows, [[], run_of(1)[0]])) == rows, "the first node's files are not there"


def test_a_run_that_goes_on_has_reached_a_bar_for_good(tmp_path: Path) -> None:
    """What the other node has not written yet may only concern later rows."""
    one, other = run_of(2)
    folders = [tmp_path / "run", tmp_path / "run-node-1"]
    assert not has_reached(folders, -100.0), "nothing is there yet"
    write(folders[0], one)
    assert not has_reached(folders, -100.0), "the other node has not written"
    write(folders[1], other[:100], learners=2)
    bars = range(0, COUNT, 5)
    reached = [bar for bar in bars if has_reached(folders, bar)]
    assert max(reached) == 145, "of the rows until episode 199"
    whole = list(pooled(rows_of(one), [one, other]))
    assert all(result(whole, bar, COUNT).reached_at for bar in reached)
    assert all(result(pooled_rows(folders), bar, COUNT).reached_at for bar in reached)


def test_episodes_of_several_learners_are_in_the_order_of_their_ends(tmp_path: Path) -> None:
    episodes = run_of(1)[0][:20]
    write(tmp_path / "run", episodes, learners=3)
    assert episodes_of(tmp_path / "run") == episodes
    assert episodes_of(tmp_path / "none") == []
