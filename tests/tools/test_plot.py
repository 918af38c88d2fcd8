"""`galamp plot`: the lines, means, marks and references that it draws, and where it draws them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.cells import cell_len

from galamp.cli.main import main
from galamp.storage.eval_log import Evaluation, EvaluationLog
from galamp.storage.run_folder import RunFolder
from galamp.storage.run_history import RunHistory
from galamp.storage.run_logs import MetricsLog
from galamp.telemetry.display import ticks
from galamp.tools.plot import charts, groups, metrics, runs, scale, terminal
from galamp.tools.plot.charts import Chart, Line
from tests.support.engine import (
    DEADLINE_S,
    OnTerminal,
    started,
    summary,
    titled,
    training,
    wait_for,
)
from tests.support.engine import run as train
from tests.support.finished import finished_run, write_rows
from tests.support.scenarios import ENDLESS

SCORES = [1.0, 2.0, 4.0, 8.0]


def plot(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["plot", *map(str, words)])
    return code, *capsys.readouterr()


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code, out, err = plot(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("galamp: ")
    assert err.count("\n") == 1
    return err


# Curves, means and bands


@pytest.mark.parametrize(
    ("axis", "x"), [("steps", [1000, 2000]), ("frames", [4000, 8000]), ("hours", [0.01, 0.02])]
)
def test_a_curve_is_drawn_over_each_axis(tmp_path: Path, axis: str, x: list[float]) -> None:
    [run] = runs.load([finished_run(tmp_path / "a", [3.0, 5.0])])
    found = charts.curve(run.history, metrics.SCORE, axis)
    np.testing.assert_allclose(found, [x, [3.0, 5.0]])


def test_rows_without_a_score_are_no_points(tmp_path: Path) -> None:
    [run] = runs.load([finished_run(tmp_path / "a", [None, None, 5.0])])
    np.testing.assert_array_equal(charts.curve(run.history, metrics.SCORE, "steps"), [[3000], [5]])


def test_runs_that_differ_in_seed_and_machine_only_are_one_group(tmp_path: Path) -> None:
    folders = [
        finished_run(tmp_path / "a1", SCORES, seed=1),
        finished_run(tmp_path / "a2", SCORES, seed=2, threads=3, name="other", device="cpu"),
        finished_run(tmp_path / "b1", SCORES, seed=1, learning_rate=0.01),
    ]
    found = groups.group(runs.load(folders))
    assert [[run.label for run in group.runs] for group in found] == [["a1", "a2"], ["b1"]]
    assert [group.label for group in found] == ["learning rate -", "learning rate 0.01"]
    assert [group.letter for group in found] == ["A", "B"]


def test_an_older_run_is_grouped_with_one_of_now(tmp_path: Path) -> None:
    new = finished_run(tmp_path / "new", SCORES, env_id="ALE/Pong-v5", method="gossip")
    old = finished_run(tmp_path / "old", SCORES, env_id="ALE/Pong-v5", seed=2)
    config = json.loads((old / "config.json").read_text())
    del config["environment"]["fire_reset"], config["environment"]["max_episode_steps"]
    config["gossip"]["method"] = "gala"
    config["resources"]["batches"] = config["resources"].pop("env_splits")
    (old / "config.json").write_text(json.dumps(config))
    assert len(groups.group(runs.load([new, old]))) == 1


def test_the_mean_of_a_group_is_that_of_its_runs_where_all_have_values() -> None:
    a = np.array([0.0, 10.0]), np.array([0.0, 10.0])
    b = np.array([5.0, 20.0]), np.array([1.0, 1.0])
    line = charts.mean_line("both", [a, b], 0, "stderr")
    assert line is not None
    assert (line.x[0], line.x[-1]) == (5.0, 10.0)
    np.testing.assert_allclose([line.y[0], line.y[-1]], [3.0, 5.5])
    # The standard error of two values is half of their distance.
    np.testing.assert_allclose([line.low[0], line.high[0]], [1.0, 5.0])
    assert charts.mean_line("apart", [a, (a[0] + 11, a[1])], 0, "stderr") is None


def test_a_bootstrap_band_holds_the_mean_and_is_inside_the_extremes() -> None:
    x = np.array([0.0, 1.0])
    curves = [(x, np.array([value, value])) for value in (1.0, 2.0, 3.0, 4.0, 10.0)]
    line = charts.mean_line("five", curves, 0, "bootstrap")
    assert line is not None
    assert 1.0 < line.low[0] < 4.0 < line.high[0] < 10.0
    # 5 of 3125 samples have one value only: 95 % of the means are between these, by enumeration.
    means = np.array(np.meshgrid(*[[1.0, 2.0, 3.0, 4.0, 10.0]] * 5)).reshape(5, -1).mean(axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    assert abs(line.low[0] - low) < 0.25
    assert abs(line.high[0] - high) < 0.45


def test_a_line_of_one_run_has_no_band(tmp_path: Path) -> None:
    chart = charts.chart_of_groups(
        groups.group(runs.load([finished_run(tmp_path / "a", SCORES)])),
        metrics.SCORE, "steps", "stderr",
    )  # fmt: skip
    assert [len(line.low) for line in chart.lines] == [0]
    assert chart.lines[0].label == "a (1 run)"
    assert chart.notes == ()


def test_a_resume_and_restarts_are_marked(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "a", [1.0])
    log = MetricsLog(path / "metrics.jsonl", 2, 1000, lambda text: None)
    write_rows(log, [2.0, 3.0, 4.0], first=2, restarts=[0, 1, 1])
    history = RunHistory(path / "metrics.jsonl")
    assert charts.marks(history, "steps") == (
        charts.Mark("restart", 3000.0), charts.Mark("resume", 2000.0),
    )  # fmt: skip
    drawn = str(render([path]))
    assert "▲ the run was started again" in drawn
    assert "x a process was restarted" in drawn
    axis = next(line for line in drawn.splitlines() if "└" in line)
    assert axis.index("▲") < axis.index("x")


def test_learners_have_lines_of_their_own(tmp_path: Path) -> None:
    loaded = runs.load([finished_run(tmp_path / "a", SCORES, learners=3)])
    chart = charts.chart_of_runs(loaded, metrics.SCORE, "steps", True)
    assert [line.label for line in chart.lines] == [
        "all learners", "learner 0", "learner 1", "learner 2",
    ]  # fmt: skip
    assert [line.y[0] for line in chart.lines] == [1.0, 20.5, 21.5, 22.5]
    distance = charts.chart_of_runs(loaded, "gossip/consensus_distance", "steps", True)
    assert len(distance.lines) == 4


# Names


def test_names_of_metrics() -> None:
    names = ["global_step", "charts/SPS", "losses/entropy", "a/x", "b/x", "learner0/SPS"]
    assert metrics.find("score", names) == "charts/episodic_return"
    assert metrics.find("entropy", names) == "losses/entropy"
    assert metrics.find("charts/SPS", names) == "charts/SPS"
    assert metrics.find("learner0/SPS", names) == "learner0/SPS"
    with pytest.raises(runs.UserError, match=r"expected score, .*a/x, b/x"):
        metrics.find("x", names)


def test_a_wrong_name_lists_the_right_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_run(tmp_path / "a", SCORES)
    told = refused(capsys, path, "--metric", "entropie")
    assert "losses/entropy" in told
    assert "learner<r>/ with" in told
    assert "expected a --metric of SPS" in refused(
        capsys, path, "--metric", "entropy", "--per-learner"
    )


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        finished_run(tmp_path / name / "run", SCORES)
    link = tmp_path / "latest"
    link.symlink_to("y/run")
    loaded = runs.load([tmp_path / "x/run", tmp_path / "y/run", link])
    assert len({run.label for run in loaded}) == 2


# References


def test_references_are_those_of_the_game_and_say_where_they_do_not_apply(tmp_path: Path) -> None:
    pong = finished_run(tmp_path / "a", [-20.0, 10.0], env_id="ALE/Pong-v5")
    sticky = finished_run(tmp_path / "b", [-20.0], env_id="ALE/Pong-v5", protocol="machado")
    breakout = finished_run(tmp_path / "c", [1.0], env_id="ALE/Breakout-v5")
    other = finished_run(tmp_path / "d", [1.0])

    def of(*paths: Path, metric: str = metrics.SCORE) -> Chart:
        loaded = runs.load(paths)
        chart = charts.chart_of_runs(loaded, metric, "steps", False)
        return charts.with_references(chart, metric, loaded)

    assert of(pong).references == {"random": -20.7, "human": 14.6}
    assert "otherwise" not in of(pong).notes[0]
    assert "played otherwise here: sticky actions 0.25" in of(sticky).notes[0]
    assert of(pong, breakout).references == {}
    assert of(other).references == {}
    assert of(pong, metric="charts/SPS").references == {}


# Text


def render(paths: list[Path], width: int = 80, height: int = 12, **options: Any) -> str:
    chart = charts.chart_of_runs(runs.load(paths), metrics.SCORE, "steps", False)
    return "\n".join(line.plain for line in terminal.render(chart, width, height))


def test_a_chart_as_text(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "a", [0.0, 10.0, 20.0, 30.0])
    lines = render([path], 40, 6).splitlines()
    assert [line.rstrip() for line in lines] == EXPECTED.strip("\n").splitlines()


EXPECTED = """
mean score of the last 100 episodes
   │                              ⢀⣀⠤⠔⠒⠉
   │                        ⢀⣀⠤⠔⠒⠉⠁
20 ┤                  ⣀⡠⠤⠔⠒⠉⠁
   │           ⢀⣀⠤⠔⠒⠊⠉
   │     ⢀⣀⠤⠔⠒⠉⠁
 0 ┤⣀⠤⠔⠒⠉⠁
   └────────────┬──────────────────────┬
              2000                  4000
                             agent steps
"""


@pytest.mark.parametrize(("axis", "x"), [("steps", 2000), ("frames", 8000), ("hours", 0.02)])
def test_evaluations_are_dots_on_the_curve(tmp_path: Path, axis: str, x: float) -> None:
    path = finished_run(tmp_path / "a", [0.0, 10.0, 20.0])
    EvaluationLog(path, lambda text: None).append(
        Evaluation(2000, mean=50.0, episodes=3, emulator_frames=8000, wall_s=72.0)
    )
    found = runs.load([path])
    chart = charts.chart_of_runs(found, metrics.SCORE, axis, False)
    assert chart.lines[0].dots == ((x, 50.0),)
    assert scale.frame(chart)[3] == 50.0
    _, top, *_, last = [line.plain for line in terminal.render(chart, 40, 6)]
    assert "●" in top
    assert last == terminal.DOT_NOTE[:40]
    other = charts.chart_of_runs(found, "charts/SPS", axis, False)
    assert other.lines[0].dots == ()


@pytest.mark.parametrize("width", [20, 30, 39, 80, 200])
@pytest.mark.parametrize("height", [1, 10, 40])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int, height: int) -> None:
    paths = [
        finished_run(tmp_path / f"a{n}", [n * 1e-7, 3e9 * n, 1.0], learners=1) for n in range(3)
    ]
    for line in render(paths, width, height).splitlines():
        assert cell_len(line) <= width


def test_lines_can_be_told_apart_without_colours(tmp_path: Path) -> None:
    a, b = finished_run(tmp_path / "a", [0.0, 9.0]), finished_run(tmp_path / "b", [9.0, 0.0])
    drawn = render([a, b])
    assert "1 a   now 9" in drawn
    assert "2 b   now 0" in drawn
    first, *_, last = [line for line in drawn.splitlines() if "│" in line or "┤" in line]
    assert first.rstrip().endswith("1")
    assert last.rstrip().endswith("2")


def chart_of(*y: float, **references: float) -> Chart:
    line = Line("a", np.arange(float(len(y))), np.array(y), 0)
    return Chart("a", "x", (line,), references)


def test_the_range_leaves_out_what_would_make_the_lines_flat() -> None:
    near = chart_of(0.0, 1.0, random=-0.5, human=30.0)
    assert scale.frame(near)[2:] == (-0.5, 1.0)
    assert scale.beyond(near, scale.frame(near)) == ["human 30 is above the chart"]
    spiky = chart_of(*np.linspace(0, 1, 200), -1e6)
    assert scale.frame(spiky)[2] > -2
    assert scale.beyond(spiky, scale.frame(spiky)) == [
        "1 of 201 values are outliers beyond the chart's edges"
    ]
    assert scale.frame(chart_of(5.0, 5.0))[2:] == (2.5, 7.5)


@pytest.mark.parametrize(
    ("low", "high", "most", "labels"),
    [
        (0, 100, 5, ["0", "20", "40", "60", "80", "100"][:5]),
        (-21, 21, 5, ["-20", "-10", "0", "10", "20"]),
        (0, 4e6, 5, ["0", "1M", "2M", "3M", "4M"]),
        (0.61, 0.69, 4, ["0.62", "0.64", "0.66", "0.68"]),
        (22.6, 33, 5, ["22.5", "25.0", "27.5", "30.0", "32.5"][1:]),
        (0, 3e-5, 3, ["0", "1e-05", "2e-05"]),
        (0, 2e300, 2, ["0", "1e+300"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, most: int, labels: list[str]) -> None:
    values = ticks.ticks(low, high, most)
    assert ticks.tick_labels(values) == labels


# The command


def test_without_a_terminal_it_prints_plain_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_run(tmp_path / "a", SCORES)
    before = snapshot(tmp_path)
    code, out, err = plot(capsys, path, "--metric", "score", "--metric", "speed")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "mean score of the last 100 episodes" in out
    assert "agent steps per second" in out
    assert max(map(cell_len, out.splitlines())) <= 80
    assert snapshot(tmp_path) == before


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, magic: bytes
) -> None:
    folders = [finished_run(tmp_path / f"$a_{{{n}$", SCORES, seed=n) for n in range(3)]
    target = tmp_path / f"out.{kind}"
    assert plot(capsys, *folders, "--group", "-o", target)[0] == 0
    content = target.read_bytes()
    assert content.startswith(magic)
    assert "exists" in refused(capsys, *folders, "-o", target)
    assert plot(capsys, *folders, "--group", "-o", target, "--overwrite")[0] == 0
    assert target.read_bytes() == content
    if kind == "svg":
        plot(capsys, *folders, "-o", target, "--overwrite")
        assert "<!-- $a_{0$ -->" in target.read_text()
    if kind == "png":
        picture = cv2.imread(str(target))
        assert picture is not None
        blue = np.abs(picture.astype(int) - (0xA8, 0x5F, 0x1F)).sum(axis=2) < 20
        blue = blue[:700]  # without the legend
        columns = np.flatnonzero(blue.any(axis=0))
        assert np.ptp(columns) > 1000
        # The mean of the three equal runs rises.
        rows = [float(np.flatnonzero(blue[:, at]).mean()) for at in columns[[20, -20]]]
        assert rows[0] > rows[1] + 200


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, empty = finished_run(tmp_path / "a", SCORES), finished_run(tmp_path / "b", [None])
    assert "not a run folder" in refused(capsys, tmp_path)
    assert "nothing to draw yet in 1 rows of metrics; --follow" in refused(capsys, empty)
    assert "ends in .png or .svg or .pdf" in refused(capsys, path, "-o", tmp_path / "a.jpg")
    assert "there is no folder" in refused(capsys, path, "-o", tmp_path / "c/a.png")
    assert "leave out --group" in refused(capsys, path, "--group", "--per-learner")
    assert "goes with --group" in refused(capsys, path, "--band", "bootstrap")
    assert "goes with --figure" in refused(capsys, path, "--overwrite")
    code, out, _ = plot(capsys, path, empty)
    assert code == 0
    assert "nothing to draw yet: b" in out
    (path / "config.json").write_text('{"environment": {"env_id": 5}}')
    assert "damaged" in refused(capsys, path)


def test_code_that_a_config_names_is_not_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap_of_plot.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    path = finished_run(tmp_path / "a", SCORES, env_id="trap_of_plot:make")
    config = json.loads((path / "config.json").read_text())
    config["algorithm"] = {"algorithm": "trap_of_plot:Own", "own_setting": 3}
    config["model"]["network"] = "trap_of_plot:make"
    (path / "config.json").write_text(json.dumps(config))
    assert plot(capsys, path, "--group")[0] == 0
    [run] = runs.load([path])
    assert run.settings["own_setting"] == 3


@pytest.mark.parametrize(
    "foreign",
    [
        {"seed": [1], "environment": {"protocol": ["classic"], "env_id": "ALE/Pong-v5"}},
        {"environment": 5, "algorithm": {"algorithm": None}, "own": {"a": {"b": [None]}}},
        {"environment": {"env_id": "ALE/Nothing-v5", "noop_max": "x"}, "resources": []},
    ],
)
def test_foreign_configs_are_no_defect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], foreign: dict[str, Any]
) -> None:
    path, other = finished_run(tmp_path / "a", SCORES), finished_run(tmp_path / "b", SCORES)
    (path / "config.json").write_text(json.dumps(foreign))
    assert plot(capsys, path, other, "--group")[0] == 0
    assert main(["compare", str(path), str(other)]) == 0


# Runs that go on


def test_following_ends_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished_run(tmp_path / "a", [None])
    folder = RunFolder.open(path)
    log = MetricsLog(folder.metrics, 2, 1000, lambda text: None)
    slept: list[Callable[[], None]] = [
        lambda: write_rows(log, [5.0], first=2),
        lambda: (write_rows(log, [6.0], first=3), folder.close())[0],
    ]
    monkeypatch.setattr("time.sleep", lambda _: slept.pop(0)())
    target = tmp_path / "live.svg"
    code, out, err = plot(capsys, path, "--follow", "-o", target)
    assert (code, out, err) == (0, "", "the run has ended\n")
    assert slept == []
    assert target.exists()
    assert "└" in plot(capsys, path, "--follow")[1]


def test_following_an_ended_run_refuses_a_wrong_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_run(tmp_path / "a", [])
    assert "expected score" in refused(capsys, path, "--follow", "--metric", "entropie")


def test_following_waits_for_a_metric_only_while_nothing_was_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished_run(tmp_path / "a", [])
    with contextlib.closing(RunFolder.open(path)) as folder:
        log = MetricsLog(folder.metrics, 1, 0, lambda text: None)
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            assert len(waited) < 3
            if len(waited) == 2:
                write_rows(log, SCORES)

        monkeypatch.setattr("time.sleep", sleep)
        code, _, err = plot(capsys, path, "--follow", "--metric", "entropie")
    assert (code, len(waited)) == (2, 2)
    assert "losses/entropy" in err


def test_following_a_real_run_on_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", path) as process:
        wait_for(lambda: training(path), "training")
        with OnTerminal("plot", path, "--follow", "--metric", "speed") as left:
            wait_for(lambda: "agent steps per second" in left.read(), "a picture")
            left.press(b"\x03")
            assert left.process.wait(DEADLINE_S) == 0
            assert "left; training goes on" in left.read()
            assert left.read().rindex("\x1b[?25h") > left.read().rindex("\x1b[?25l")
        assert "Traceback" not in left.read()
        # Of the alternate screen nothing stays; the last picture is printed below the prompt.
        assert "└" in left.read().rpartition("\x1b[?1049l")[2]
        with OnTerminal("plot", path, "--follow", "--metric", "speed") as follower:
            wait_for(lambda: "agent steps per second" in follower.read(), "a picture")
            os.kill(titled(process.pid, "simulator 0")[0], signal.SIGKILL)
            wait_for(lambda: "a process was restarted" in follower.read(), "the mark")
            process.send_signal(signal.SIGINT)
            assert follower.process.wait(DEADLINE_S) == 0
            assert "the run has ended" in follower.read()
    assert summary(path)["status"] == "stopped"


def test_a_real_run_and_its_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    flags = ["--env-id", "CartPole-v1", "--learners", 2, "--num-envs", 2, "--quiet"]
    assert train(*flags, "--total-steps", 600, "--run-dir", path).returncode == 0
    assert train("--resume", path, "--total-steps", 1200, "--quiet").returncode == 0
    code, out, _ = plot(capsys, path, "--per-learner", "--x", "hours")
    assert code == 0
    assert "▲ the run was started again" in out
    assert "learner 1" in out
