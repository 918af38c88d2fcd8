"""Training on real Atari from the command line, resumed, with all the files that it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from galamp.storage import checkpoint
from galamp.storage.run_logs import read_metrics
from galamp.telemetry.display.streams import STARTING
from tests.support.engine import run, summary

SMALL = ["--learners", 2, "--num-envs", 2, "--log-every-s", 0.2]
SMALL += ["--max-episode-steps", 50]


@pytest.mark.counted
def test_train_then_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["--game", "Breakout", *SMALL, "--total-steps", 400, "--run-dir", folder, "--json"]
    first = run(*words, new_python=True)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told == summary(folder)
    assert told["status"] == "finished"
    assert 400 <= told["agent_steps"] <= 400 + 2 * 2 * 5
    assert told["emulator_frames"] == 4 * told["agent_steps"]
    assert sum(told["updates_per_learner"]) == told["agent_steps"] // 10
    assert min(told["mixes_per_learner"]) > 0
    assert told["episodes"] > 0
    assert 0 < told["gossip"]["consensus_distance"] < 10
    _check_files(folder, told)

    second = run("--resume", folder, "--total-steps", 800, "--json")
    assert second.returncode == 0, second.stderr
    later = json.loads(second.stdout)
    assert later["start"] == 2
    assert 800 <= later["agent_steps"] <= 800 + 2 * 2 * 5
    assert later["episodes"] > told["episodes"]
    updates = zip(told["updates_per_learner"], later["updates_per_learner"], strict=True)
    assert all(after > before for before, after in updates)
    steps = [row["global_step"] for row in read_metrics(folder / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert steps[-1] == later["agent_steps"]
    _check_that_another_game_is_refused(folder)


def _check_files(folder: Path, told: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["algorithm"]["learning_rate"] == 7e-4 * 2**0.5
    assert config["environment"]["env_id"] == "ALE/Breakout-v5"
    assert config["resolved"]["protocol"] == told["protocol"]
    saved = checkpoint.load(folder / "checkpoints" / "latest")
    assert saved.progress["agent_steps"] == told["agent_steps"]
    assert len(saved.learners) == 2
    lines = [
        line
        for rank in range(2)
        for line in (folder / "monitor" / f"{rank}.monitor.csv").read_text().splitlines()[2:]
    ]
    assert len(lines) == told["episodes"]
    scores = [float(line.split(",")[0]) for line in lines]
    assert all(score >= 0 and score == int(score) for score in scores)
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["charts/SPS"] > 0
    assert row["losses/entropy"] > 0
    assert sum(v for k, v in row.items() if k.startswith("perf/")) > 0.99


def _check_that_another_game_is_refused(folder: Path) -> None:
    before = sorted(str(path) for path in folder.rglob("*"))
    ended = run("--resume", folder, "--game", "Pong")
    assert ended.returncode == 2
    assert "ALE/Breakout-v5" in ended.stderr
    assert "ALE/Pong-v5" in ended.stderr
    assert sorted(str(path) for path in folder.rglob("*")) == before


def test_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    ended = run("--game", "Pong", "--run-dir", tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.removeprefix(STARTING).count("\n") == 1
    assert "not empty" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]
