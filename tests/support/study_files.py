"""The study's planned runs, and a folder for its results: fixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from galamp.cli.study_files import sweep_of
from galamp.tools.study import plan, pong_rates, stable_baselines3
from galamp.tools.sweep.planned import PlannedRun

Runs = Mapping[str, Sequence[PlannedRun]]


@pytest.fixture(scope="module")
def runs() -> Runs:
    """What the files of the study plan."""
    return {name: sweep_of(name).runs for name in plan.BLOCKS}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results in place of the study's."""
    monkeypatch.setattr(plan, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(stable_baselines3, "FILE", tmp_path / "results" / "peers.jsonl")
    monkeypatch.setattr(pong_rates, "FILE", tmp_path / "results" / "pong-rates.jsonl")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"
