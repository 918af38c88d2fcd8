"""Monitor files as the real Stable-Baselines3 reads and plots them."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import pytest

from galamp.telemetry.sinks.base import Episode, SinkContext
from galamp.telemetry.sinks.monitor import MonitorSink
from tests.contracts.sink import T_START

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("stable_baselines3") is None,
        reason="the package stable-baselines3 is not installed: pip install stable-baselines3",
    ),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def monitor(tmp_path: Path) -> Path:
    """Monitor files of two learners; the second start is a day later, after a kill."""
    (tmp_path / "monitor").mkdir()
    context = SinkContext(tmp_path, 'ALE/"x"', 2, 1, 0, print, t_start=T_START)
    first, second = MonitorSink(context), MonitorSink(context)
    first.add_episode(Episode(0, 1.5, 10, T_START + 3))
    first.add_episode(Episode(1, -2.0, 20, T_START + 1))
    first.close()
    with open(tmp_path / "monitor" / "0.monitor.csv", "a") as file:
        file.write("3,")  # half a line, as a killed process leaves it
    second = MonitorSink(replace(context, start=2, t_start=T_START + 86_400))
    second.add_episode(Episode(0, 1e-7, 30, T_START + 86_402))
    second.close()
    return tmp_path / "monitor"


def test_load_results_reads_all_learners_and_starts_in_order(monitor: Path) -> None:
    from stable_baselines3.common.monitor import load_results

    found = load_results(str(monitor))
    assert found["r"].tolist() == [-2.0, 1.5, 1e-7]
    assert found["l"].tolist() == [20, 10, 30]
    assert found["t"].tolist() == pytest.approx([1.0, 3.0, 86_402.0])


@pytest.mark.parametrize(
    ("axis", "xs"),
    [("timesteps", [20, 30, 60]), ("episodes", [0, 1, 2]), ("walltime_hrs", [1 / 3600, 3 / 3600])],
)
def test_plot_results_draws_every_episode(monitor: Path, axis: str, xs: list[float]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from stable_baselines3.common.results_plotter import plot_results

    plot_results([str(monitor)], None, axis, "Pong")
    (dots,) = pyplot.gca().collections
    points = dots.get_offsets()
    pyplot.close("all")
    assert [float(y) for _, y in points] == [-2.0, 1.5, 1e-7]
    drawn = [float(x) for x, _ in points]
    assert all(map(math.isclose, drawn, xs))
