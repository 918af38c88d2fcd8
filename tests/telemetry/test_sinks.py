"""Metric sinks: the contract of all that are registered, what each writes, and one's own."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galamp.cli import main as cli
from galamp.cli.run_config import config_from
from galamp.core.config import RunConfig, to_dict
from galamp.core.errors import UserError
from galamp.core.pip_commands import install_extra
from galamp.storage.run_folder import CONFIG
from galamp.storage.run_logs import curve, last_row, last_start_in, read_metrics
from galamp.telemetry.sinks import SINKS, load_sinks, open_sinks
from galamp.telemetry.sinks.base import MetricSink, SinkContext
from galamp.telemetry.sinks.group import SinkGroup
from galamp.telemetry.sinks.wandb_follower import follow
from tests.contracts.sink import T_START, SinkContract, episode, row
from tests.support import fake_tensorboard
from tests.support.engine import DEADLINE_S, run, summary
from tests.support.offline_wandb import wandb_rows
from tests.support.toy_sinks import Toy, entries

TOY = "tests.support.toy_sinks:Toy"
SINK = "galamp.telemetry.sinks.tensorboard"
WANDB = "galamp.telemetry.sinks.wandb"
FOLLOWER = "galamp.telemetry.sinks.wandb_follower"


class TestJsonl(SinkContract):
    name = "jsonl"

    def steps(self, folder: Path) -> list[int]:
        return [step for step, _ in curve(folder / "metrics.jsonl").points]

    def test_rows_hold_all_that_was_given_and_their_start(self) -> None:
        sink = self.open()
        sink.write(row(10, text="a", none=None))
        assert last_row(self.run_folder.metrics) == row(10, text="a", none=None, start=1)


class TestMonitor(SinkContract):
    name = "monitor"
    supersedes = False

    def steps(self, folder: Path) -> list[int]:
        return [int(length) for _, length, _ in self.lines(folder, 0)]

    def lines(self, folder: Path, learner: int) -> list[list[str]]:
        path = folder / "monitor" / f"{learner}.monitor.csv"
        if not path.exists():
            return []
        with open(path) as file:
            return list(csv.reader(file))[2:]

    def test_every_learner_has_its_file(self) -> None:
        sink = self.open()
        for learner, step in ((0, 10), (1, 20), (1, 30)):
            sink.add_episode(episode(step, learner))
        sink.close()
        assert self.lines(self.folder, 0) == [["1", "10", "10.0"]]
        assert self.lines(self.folder, 1) == [["2", "20", "20.0"], ["3", "30", "30.0"]]
        first = self.run_folder.monitor_path(1).read_text().splitlines()[0]
        assert json.loads(first[1:]) == {"t_start": T_START, "env_id": 'ALE/"x"'}


@pytest.fixture
def afresh() -> Iterator[None]:
    """Have the sink's module be imported anew, with what stands for tensorboard then."""
    sys.modules.pop(SINK, None)
    yield
    sys.modules.pop(SINK, None)


class TestTensorBoardOfAStandIn(SinkContract):
    name = "tensorboard"

    @pytest.fixture(autouse=True)
    def _package(self, monkeypatch: pytest.MonkeyPatch, afresh: None) -> None:
        for name, module in fake_tensorboard.modules().items():
            monkeypatch.setitem(sys.modules, name, module)

    def steps(self, folder: Path) -> list[int]:
        return [event["step"] for event in fake_tensorboard.visible(folder / "tensorboard")]

    def test_tags_are_the_names_of_the_numbers_in_the_rows(self) -> None:
        sink = self.open()
        sink.write(row(10, **{"losses/entropy": 1, "text": "a", "none": None}))
        (event,) = fake_tensorboard.visible(self.folder / "tensorboard")
        assert event["summary"] == [
            {"tag": "charts/episodic_return", "simple_value": 1.0},
            {"tag": "losses/entropy", "simple_value": 1.0},
        ]
        assert T_START <= event["wall_time"] < T_START + 600

    def test_starts_of_the_same_number_share_no_file(self) -> None:
        """A full disk lost the row by which starts are counted."""
        for step in (10, 20):
            sink = open_sinks(self.name, self.context())
            self.run_folder.metrics.unlink()
            sink.write(row(step))
            self.run_folder.metrics.unlink()
        names = sorted(path.name for path in (self.folder / "tensorboard").iterdir())
        assert names == [f"events.out.tfevents.0000000001.{n:04d}" for n in (0, 1)]

    def test_nothing_is_written_through_a_link(self, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (self.folder / "tensorboard").symlink_to(elsewhere)
        sink = self.open()
        self.write(sink, 10, 20)
        assert list(elsewhere.iterdir()) == []
        (line,) = self.told
        assert "--sinks tensorboard: " in line
        assert "a link, through which nothing is written" in line

    def test_a_file_that_is_removed_meanwhile_is_begun_again(self) -> None:
        sink = self.open()
        self.write(sink, 10)
        (path,) = (self.folder / "tensorboard").iterdir()
        path.unlink()
        self.write(sink, 20)
        assert self.steps(self.folder) == [20]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="the package tensorboard is not installed: pip install 'galamp[tensorboard]'",
)
@pytest.mark.filterwarnings("default")
class TestTensorBoard(SinkContract):
    """What TensorBoard itself reads."""

    name = "tensorboard"

    def scalars(self, folder: Path, tag: str) -> list[tuple[int, float]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        if not (folder / "tensorboard").is_dir():
            return []
        found = EventAccumulator(str(folder / "tensorboard"))
        found.Reload()
        assert tag in found.Tags()["scalars"]
        return [(each.step, each.value) for each in found.Scalars(tag)]

    def steps(self, folder: Path) -> list[int]:
        return [step for step, _ in self.scalars(folder, "charts/episodic_return")]

    def test_values_are_those_of_the_rows(self) -> None:
        sink = self.open()
        sink.write(row(10, **{"losses/entropy": 1.5}))
        sink.write(row(20, **{"losses/entropy": 0.5}))
        assert self.scalars(self.folder, "losses/entropy") == [(10, 1.5), (20, 0.5)]


class TestWandbOfAStandIn(SinkContract):
    """The follower is run here afterwards, once per start, and W&B is a list."""

    name = "wandb"
    supersedes = False

    @pytest.fixture(autouse=True)
    def _package(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        there = tmp_path / "packages" / "wandb"
        there.mkdir(parents=True)
        (there / "__init__.py").touch()
        monkeypatch.syspath_prepend(there.parent)
        self.started: list[list[str]] = []
        monkeypatch.setattr("subprocess.Popen", self.begun)
        sys.modules.pop(WANDB, None)
        yield
        sys.modules.pop(WANDB, None)

    def begun(self, words: list[str], **files: Any) -> types.SimpleNamespace:
        """Return a process that does all that it is asked, and is none."""
        self.started.append(words)
        calls = ("poll", "terminate", "wait", "kill")
        return types.SimpleNamespace(**dict.fromkeys(calls, lambda *timeout: None))

    def steps(self, folder: Path) -> list[int]:
        given: list[dict[str, Any]] = []
        for start in range(1, 1 + last_start_in(folder / "metrics.jsonl")):
            follow(folder, start, given.append, lambda: True)
        assert not any("start" in each or "resumed_from" in each for each in given)
        return [each["global_step"] for each in given if "global_step" in each]

    # Its rows are those of metrics.jsonl, whose writer tells of the disk.
    test_a_disk_that_refuses_is_told_once_and_costs_its_rows_only = None  # type: ignore[assignment]

    def test_every_start_has_its_process(self) -> None:
        for start in (1, 2):
            self.write(self.open(from_step=10 * (start - 1)), 10 * start)
            words = self.started[-1]
            assert words[-5:] == ["-m", FOLLOWER, str(self.folder), str(start), str(os.getpid())]
        assert len(self.started) == 2

    def test_a_process_that_has_ended_is_told_once_and_costs_nothing_else(self) -> None:
        process = types.SimpleNamespace(poll=lambda: 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("subprocess.Popen", lambda *words, **files: process)
            sink = self.open()
            self.write(sink, 10, 20, 30)
            sink.close()
        assert self.steps(self.folder) == [10, 20, 30]
        (line,) = self.told
        assert "W&B has ended: see logs/wandb.log" in line
        assert f"galamp export-logs {self.folder} --wandb" in line


def test_a_process_of_wandbs_that_does_not_finish_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    popen = subprocess.Popen
    started: list[subprocess.Popen[bytes]] = []

    def begun(words: list[str], **files: Any) -> subprocess.Popen[bytes]:
        started.append(popen(["sleep", "60"], **files))  # SIGTERM is blocked, as in the real one
        return started[0]

    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: types.SimpleNamespace(origin="x"))
    monkeypatch.setattr("subprocess.Popen", begun)
    sys.modules.pop(WANDB, None)
    module = importlib.import_module(WANDB)
    monkeypatch.setattr(module, "FINISH_S", 0.05)
    sink = module.WandbSink(context(tmp_path, told))
    sink.write(row(10))
    sink.close()
    del sys.modules[WANDB]
    assert started[0].returncode == -signal.SIGKILL
    (line,) = told
    assert "W&B had not finished after" in line


class TestToy(SinkContract):
    """A user's own keeps the contract like any other, as far as it can."""

    name = TOY
    supersedes = False

    def steps(self, folder: Path) -> list[int]:
        if not (folder / "toy.jsonl").exists():
            return []
        return [int(str(each["global_step"])) for each in entries(folder, "row")]

    # Its writes are plain ones, into the folder of whatever name.
    test_a_killed_start_takes_no_other_rows_with_it = None  # type: ignore[assignment]
    test_nothing_is_written_into_a_folder_that_is_not_the_runs_any_more = None  # type: ignore[assignment]
    test_a_disk_that_refuses_is_told_once_and_costs_its_rows_only = None  # type: ignore[assignment]
    test_a_disk_that_takes_only_half_keeps_none_of_it = None  # type: ignore[assignment]


def test_every_registered_sink_has_its_contract() -> None:
    kinds = (TestJsonl, TestMonitor, TestTensorBoard, TestWandbOfAStandIn)
    tested = {kind.name for kind in kinds}
    assert tested == set(SINKS)


# By name, or one's own


def test_jsonl_is_always_there_and_comes_first() -> None:
    assert list(load_sinks("monitor")) == ["jsonl", "monitor"]
    assert list(load_sinks("monitor,jsonl")) == ["jsonl", "monitor"]


def test_a_class_of_ones_own_needs_no_registration() -> None:
    assert load_sinks(TOY)[TOY] is Toy


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorbord", "expected one of jsonl, monitor, tensorboard, wandb, or "
         "package.module:Class (did you mean tensorboard?)"),
        ("tests.support.toy_sinks:Toys", "has no class 'Toys' (did you mean Toy?)"),
        ("tests.support.toy_sinks:NUMBER", "has no class 'NUMBER'"),
        ("pathlib:Path", "expected a subclass of"),
        ("tests.support.toy_sinks:Lacking", "has to define write"),
        ("tests.support.no_such:Toy", "cannot import tests.support.no_such"),
        ("no_such_package:Toy", "is it installed, or in this folder?"),
        ("broken_sink:Toy", "importing broken_sink: raised ZeroDivisionError: division by zero"),
        ("needy_sink:Toy", "importing needy_sink: raised ModuleNotFoundError: No module"),
    ],
)  # fmt: skip
def test_what_is_no_sink_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    (tmp_path / "broken_sink.py").write_text("1 / 0")
    (tmp_path / "needy_sink.py").write_text("import not_there.at_all")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    with pytest.raises(UserError) as refused:
        load_sinks(name)
    (problem,) = refused.value.problems
    assert problem.startswith(f"--sinks {name}: ")
    assert words in problem
    assert sys.path == path, "the working directory is searched for the sink only"


def test_a_sink_may_lie_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sink_that_lies_here.py").write_text(
        "from tests.support.toy_sinks import Toy\nclass Mine(Toy): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    (_, kind) = load_sinks("sink_that_lies_here:Mine").values()
    assert issubclass(kind, MetricSink)
    assert str(tmp_path) not in sys.path


def test_a_missing_package_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], afresh: None
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tensorboard", None)

    def start() -> None:
        raise AssertionError("the server was started")

    monkeypatch.setattr("galamp.cli.run.start_server", start)
    assert cli.main(["run", "--sinks", "monitor,tensorboard"]) == 2
    assert capsys.readouterr().err == (
        "galamp: --sinks tensorboard: needs the package tensorboard, which is not installed: "
        f"{install_extra('tensorboard')}\n"
    )


@pytest.mark.parametrize("text", ["", " , ", "jsonl,tensorbord", "jsonl monitor", "a.b", "a:b:c"])
def test_a_list_of_something_else_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--sinks", text]) == 2
    told = capsys.readouterr().err
    assert told.startswith("galamp: --sinks ")
    assert "expected one or more of jsonl, monitor, tensorboard, wandb, or package" in told
    assert told.count("\n") == 1


def test_blanks_and_repetitions_are_left_out(tmp_path: Path) -> None:
    args = cli.build_parser().parse_args(["run", "--sinks", f" monitor, {TOY} ,monitor,"])
    assert config_from(args).report.sinks == f"monitor,{TOY}"


@pytest.mark.parametrize(
    ("flags", "sinks", "project"),
    [
        (["--track"], "jsonl,monitor,wandb", "galamp"),
        (["--wandb-project", "pong"], "jsonl,monitor,wandb", "pong"),
        (["--tensorboard", "--track"], "jsonl,monitor,tensorboard,wandb", "galamp"),
        (["--sinks", "tensorboard", "--tensorboard"], "tensorboard", "galamp"),
        ([], "jsonl,monitor", "galamp"),
    ],
)
def test_short_flags_add_their_sinks(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], sinks: str, project: str
) -> None:
    monkeypatch.setattr("galamp.telemetry.sinks.load_sinks", lambda names: {})
    report = config_from(cli.build_parser().parse_args(["run", *flags])).report
    assert (report.sinks, report.wandb_project) == (sinks, project)


# Failures


def context(folder: Path, told: list[str]) -> SinkContext:
    return SinkContext(folder, "E", 1, 1, 0, told.append, t_start=T_START)


def test_a_sink_that_raises_is_told_once_and_disturbs_no_other(tmp_path: Path) -> None:
    told: list[str] = []
    broken = "tests.support.toy_sinks:Broken"
    sinks = open_sinks(f"{broken},{TOY}", context(tmp_path, told))
    for step in (10, 20):
        sinks.add_episode(episode(step))
        sinks.write(row(step))
    sinks.close()
    assert told == [f"--sinks {broken}: RuntimeError; what it was given then is lost"]
    assert [each["global_step"] for each in entries(tmp_path, "row")] == [10, 20]
    assert len(entries(tmp_path, "episode")) == 2
    assert [each["start"] for each in entries(tmp_path, "close")] == [1]


def test_a_sink_that_changes_a_row_changes_it_for_nobody() -> None:
    seen: list[float] = []

    class Changing(MetricSink):
        def write(self, row: Any) -> None:
            row["global_step"] = 0

    class Seeing(MetricSink):
        def write(self, row: Any) -> None:
            seen.append(row["global_step"])

    told: list[str] = []
    group = SinkGroup(told.append)
    for kind in (Changing, Seeing):
        group.add_all({kind.__name__: kind(context(Path(), told))})
    group.write(row(7))
    assert seen == [7]
    assert len(told) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_a_sink_that_cannot_be_opened_is_told_at_the_start_and_left_out_later(
    tmp_path: Path, begun: bool
) -> None:
    told: list[str] = []
    unopened = "tests.support.toy_sinks:Unopened"
    words = f"--sinks {unopened}: cannot be opened: PermissionError: no key"
    names = f"{TOY},{unopened}"
    if not begun:
        with pytest.raises(UserError) as refused:
            open_sinks(names, context(tmp_path, told))
        assert refused.value.problems == (f"{words}; correct it, or leave it out",)
        assert "PermissionError" in refused.value.details
        assert len(entries(tmp_path, "close")) == 1, "what was opened is closed"
        return
    sinks = open_sinks(names, context(tmp_path, told), begun=True)
    sinks.write(row(10))
    assert told == [f"{words}; left out"]
    assert len(entries(tmp_path, "row")) == 1


def test_a_refused_resume_leaves_the_curve_as_it_was(tmp_path: Path) -> None:
    """The sink that is always there marks where a resume begins: only once no other refuses."""
    told: list[str] = []
    sinks = open_sinks("jsonl", context(tmp_path, told))
    for step in (100, 200, 300):
        sinks.write(row(step))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    resumed = replace(context(tmp_path, told), start=2, from_step=200)
    with pytest.raises(UserError):
        open_sinks("tests.support.toy_sinks:Unopened", resumed)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    open_sinks("jsonl", resumed)
    assert (tmp_path / "metrics.jsonl").read_bytes() != before


def test_a_sink_that_tries_to_end_the_process_ends_nothing(tmp_path: Path) -> None:
    class Leaving(MetricSink):
        def write(self, row: Any) -> None:
            sys.exit(3)

    told: list[str] = []
    group = SinkGroup(told.append)
    group.add_all({"leaving": Leaving(context(tmp_path, told))})
    group.write(row(7))
    assert told == ["--sinks leaving: SystemExit: 3; what it was given then is lost"]


# Whole runs


@pytest.mark.parametrize("flags", [["--sinks", TOY], ["--sinks", "monitor"]])
def test_a_run_folder_alone_runs_no_sink(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    """Whoever made it may have named any module: its user has to name it, too."""
    values = to_dict(RunConfig())
    values["report"]["sinks"] = TOY
    (tmp_path / CONFIG).write_text(json.dumps(values))
    assert cli.main(["run", "--resume", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"galamp: --resume {tmp_path}: the run wants to run your code {TOY}: if that is what you "
        f"want, add --sinks {TOY}\n"
    )
    args = cli.build_parser().parse_args(["run", "--resume", str(tmp_path), *flags])
    assert config_from(args).report.sinks == flags[1]


def test_a_run_writes_to_ones_own_sink_and_an_older_one_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    broken = "tests.support.toy_sinks:Broken"
    flags = ("--env-id", "CartPole-v1", "--learners", 1, "--num-envs", 2, "--quiet")
    named = ("--sinks", f"{TOY},{broken}")
    ended = run(*flags, *named, "--total-steps", 400, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    assert os.listdir(folder / "monitor") == []
    rows = [each for each in read_metrics(folder / "metrics.jsonl") if "resumed_from" not in each]
    given = entries(folder, "row")
    assert [each["global_step"] for each in given] == [each["global_step"] for each in rows]
    assert int(str(given[-1]["global_step"])) >= 400
    played = sum(int(str(each["length"])) for each in entries(folder, "episode"))
    assert len(entries(folder, "episode")) == summary(folder)["episodes"]
    assert 0 < played <= int(str(given[-1]["global_step"]))
    assert entries(folder, "close") == [{"start": 1, "from": 0}]
    events = (folder / "events.jsonl").read_text()
    assert events.count(f"--sinks {broken}: ") == 1

    config = json.loads((folder / CONFIG).read_text())
    del config["report"]["sinks"]  # as of before there was the setting
    (folder / CONFIG).write_text(json.dumps(config))
    again = run("--resume", folder, "--total-steps", 800, "--quiet")
    assert again.returncode == 0, again.stderr
    assert os.listdir(folder / "monitor") == ["0.monitor.csv"]
    assert len(entries(folder, "close")) == 1


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None,
    reason="the package wandb is not installed: pip install 'galamp[wandb]'",
)
def test_the_real_wandb_is_given_every_row_of_a_start_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(importlib.import_module(WANDB), "FINISH_S", 2 * DEADLINE_S)
    told: list[str] = []
    (tmp_path / "logs").mkdir()
    sinks = open_sinks("wandb", context(tmp_path, told))
    for step in (10, 20, 30):
        sinks.write(row(step))
    sinks.close()
    assert told == []
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    rows, tracked = wandb_rows(offline)
    assert [each["global_step"] for each in rows] == [10, 20, 30]
    assert [each["charts/episodic_return"] for each in rows] == [1.0, 2.0, 3.0]
    assert tracked.project == "galamp"
