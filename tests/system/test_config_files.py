"""A run that is begun anew from its own settings is the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from galamp.cli.main import main
from galamp.storage import checkpoint
from galamp.storage.run_logs import read_metrics
from tests.support.engine import run

TURNS = 25
STEPS = TURNS * 2 * 4 * 5


def test_a_run_from_the_file_of_another_is_the_same_to_the_last_bit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second, file = tmp_path / "first", tmp_path / "second", tmp_path / "run.toml"
    more = ["--total-steps", STEPS, "--lr-schedule", "linear", "--log-every-s", 0.05]
    ended = run("--preset", "debug", *more, "--seed", 5, "--quiet", "--run-dir", first)
    assert ended.returncode == 0, ended.stderr
    assert main(["config", str(first)]) == 0
    file.write_text(capsys.readouterr().out)
    ended = run("--config", file, "--quiet", "--run-dir", second)
    assert ended.returncode == 0, ended.stderr
    learned = [checkpoint.load(folder / "checkpoints" / "latest") for folder in (first, second)]
    for one, other in zip(*(each.learners for each in learned), strict=True):
        assert one.counters["turns"] == other.counters["turns"] == TURNS
        for name, values in one.parameters.items():
            assert np.array_equal(values, other.parameters[name]), name
    rows = read_metrics(first / "metrics.jsonl")
    rates = [row["charts/learning_rate"] for row in rows if "charts/learning_rate" in row]
    whole = 7e-4 * 2**0.5
    assert rates[-1] == pytest.approx(whole / TURNS), "the last turn's"
