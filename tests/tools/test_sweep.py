"""`galamp sweep`: packing, going on, stopping, by a fake program; results; and a real one."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from galamp.cli.main import main
from galamp.cli.sweep_file import sweep_from
from galamp.core.config import RunConfig, from_dict, to_dict
from galamp.core.errors import UserError
from galamp.storage.locks import take_lock
from galamp.supervision.signals import Signals
from galamp.tools.run_folders.record import State, read_record
from galamp.tools.sweep import checking
from galamp.tools.sweep import progress as progress_module
from galamp.tools.sweep.checking import Survey, alike, check_all
from galamp.tools.sweep.ledger import Ledger, Start, Todo, todo_of
from galamp.tools.sweep.packing import Packing, Place
from galamp.tools.sweep.planned import PlannedRun, Sweep
from galamp.tools.sweep.progress import Progress
from galamp.tools.sweep.runner import Ended, Runner, visible
from galamp.training import train
from tests.support.engine import galamp
from tests.support.sweeps import made

TEXT = """
total_steps = 1000
[environment]
env_id = "CartPole-v1"
[resources]
device = "cpu"
learners = 1
[sweep]
seeds = [1, 2]
[sweep.grid]
"algorithm.gamma" = [0.9, 0.99]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "try.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def sweep(file: Path) -> Sweep:
    return sweep_from(file)


def ended_run(path: Path, status: str, scores: Sequence[float] = (1.0, 2.0), seed: int = 1) -> Path:
    """Write a run that has ended so, after 1,000 agent steps and 36 s per score."""
    path.mkdir(parents=True)
    config = to_dict(from_dict({"environment": {"env_id": "CartPole-v1"}, "seed": seed}))
    (path / "config.json").write_text(json.dumps(config))
    rows = [
        {"start": 1, "global_step": 1000 * n, "wall_s": 36.0 * n, "charts/episodic_return": score}
        for n, score in enumerate(scores, 1)
    ]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    last = {"agent_steps": 1000 * len(scores), "mean_return_100": scores[-1], "wall_s": 72.0}
    summary = {"status": status, "start": 1, "ended_by": "total-steps", **last}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


# Packing


def test_a_run_has_cores_of_its_own_and_waits_for_them() -> None:
    packing = Packing([4, 5, 6])
    first, second = packing.take(2), packing.take(1)
    assert first == Place((4, 5))
    assert second == Place((6,))
    assert packing.take(1) is None
    packing.free(first)
    assert packing.take(3) is None
    assert packing.take(1) == Place((4,))


@pytest.mark.parametrize("wanted", [0, 9])
def test_a_run_that_wants_all_cores_runs_alone(wanted: int) -> None:
    packing = Packing([0, 1])
    assert packing.take(wanted) == Place((0, 1))
    assert packing.take(1) is None


def test_as_many_jobs_as_are_wanted_share_the_cores() -> None:
    packing = Packing([0, 1], jobs=3)
    places = [packing.take(2) for _ in range(4)]
    assert places == [Place((0,)), Place((1,)), Place((0,)), None]
    wide = Packing([0, 1, 2, 3], jobs=2)
    assert [wide.take(0), wide.take(1)] == [Place((0, 1)), Place((2,))]


def test_runs_have_gpus_of_their_own_or_share_them_as_many_as_are_wanted() -> None:
    alone = Packing(range(8), 2)
    assert [alone.take(1, 1), alone.take(1, 1), alone.take(1, 1)] == [
        Place((0,), (0,)), Place((1,), (1,)), None
    ]  # fmt: skip
    assert alone.take(1, 0) == Place((2,))
    shared = Packing(range(8), 1, runs_per_gpu=2)
    assert [bool(shared.take(1, 1)) for _ in range(3)] == [True, True, False]
    assert Packing([0], 0).take(1, 1) == Place((0,), ())


def test_gpus_are_named_as_this_process_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible((0, 2)) == "0,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-a")
    assert visible((1,)) == "GPU-a"


# What is checked, and what is to be done


def test_one_run_of_each_arm_and_environment_is_checked_on_its_cores(sweep: Sweep) -> None:
    cores = sorted(os.sched_getaffinity(0))
    seen = []

    def check(run: PlannedRun) -> None:
        seen.append((run.name, os.sched_getaffinity(0)))
        raise UserError("no such thing")

    starts = [Start(run, resume=False) for run in sweep.runs]
    with pytest.raises(UserError) as error:
        check_all([*starts, Start(sweep.runs[0], resume=True)], Packing(cores), cores, check)
    assert seen == [(run.name, {cores[0]}) for run in sweep.runs[::2]]
    assert error.value.problems == (
        "gamma-0.9, CartPole-v1: no such thing",
        "gamma-0.99, CartPole-v1: no such thing",
    )
    assert os.sched_getaffinity(0) == set(cores)
    assert alike(iter(sweep.runs)) == [sweep.runs[0], sweep.runs[2]]


def test_an_environment_is_tried_once_however_many_arms_train_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """[sweep]
games = ["CartPole-v1", "Acrobot-v1"]
[sweep.grid]
"algorithm.gamma" = [0.9, 0.99]
"environment.num_envs" = [2, 4]
"environment.frame_stack" = [1, 3]
"""
    (tmp_path / "many.toml").write_text(text)
    asked: list[tuple[str, int, object]] = []

    def survey(config: RunConfig, kept: object, known: object) -> tuple[SimpleNamespace, None]:
        of = config.environment
        asked.append((of.env_id, of.frame_stack or 1, known))
        return SimpleNamespace(environment=(of.env_id, of.frame_stack or 1)), None

    monkeypatch.setattr(train, "survey", survey)
    check = Survey()
    for run in sweep_from(tmp_path / "many.toml").runs:
        check(run)
    assert len(asked) == 16
    tried = [(env_id, stack) for env_id, stack, known in asked if known is None]
    assert len(tried) == len(set(tried)) == 4
    assert all(known in (None, (env_id, stack)) for env_id, stack, known in asked)


def test_finished_runs_are_skipped_and_interrupted_ones_gone_on_with(
    sweep: Sweep, tmp_path: Path
) -> None:
    ledger = made(tmp_path)
    assert ledger.starts(sweep) == [Start(run, resume=False) for run in sweep.runs]
    for run, status in zip(sweep.runs, ("finished", "stopped", "failed"), strict=False):
        ledger.started(run)
        (ended_run(ledger.path(run), status) / "checkpoints" / "ckpt-000000000100").mkdir(
            parents=True
        )
    again = made(tmp_path)
    assert again.starts(sweep) == [
        Start(sweep.runs[1], resume=True),
        Start(sweep.runs[2], resume=True),
        Start(sweep.runs[3], resume=False),
    ]


def test_a_run_that_has_had_its_time_is_finished_and_one_without_checkpoint_begins_anew(
    tmp_path: Path,
) -> None:
    run = ended_run(tmp_path / "run", "stopped")
    assert todo_of(run) is Todo.BEGIN
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "ended_by": "max-time"}))
    assert todo_of(run) is Todo.NOTHING


def test_a_run_that_was_killed_while_it_saved_for_the_first_time_begins_anew(
    tmp_path: Path,
) -> None:
    """What is half written is no checkpoint, and `--resume` finds none."""
    run = ended_run(tmp_path / "run", "x")
    (run / "checkpoints" / ".tmp-x").mkdir(parents=True)
    assert read_record(run).state is State.DEAD
    assert todo_of(run) is Todo.BEGIN
    (run / "checkpoints" / "ckpt-000000000100-1").mkdir()
    assert todo_of(run) is Todo.GO_ON


def test_a_file_that_gives_a_run_other_settings_is_refused_and_new_runs_are_added(
    file: Path, sweep: Sweep, tmp_path: Path
) -> None:
    ledger = made(tmp_path)
    for run in sweep.runs[:2]:
        ledger.started(run)
    file.write_text(TEXT.replace("[1, 2]", "[1, 2, 3]"))
    assert len(ledger.starts(sweep_from(file))) == 6
    file.write_text(TEXT.replace("1000", "2000"))
    with pytest.raises(UserError, match="total_steps: was 1000, is 2000") as error:
        made(tmp_path).starts(sweep_from(file))
    assert len(error.value.problems) == 2


def test_a_run_that_another_machine_had_is_gone_on_with_once_its_lock_is_removed(
    sweep: Sweep, tmp_path: Path
) -> None:
    """As where a container was killed, whose place one with another name has taken."""
    ledger, run = made(tmp_path), sweep.runs[0]
    ledger.started(run)
    path = ended_run(ledger.path(run), "stopped")
    (path / "checkpoints" / "ckpt-000000000100").mkdir(parents=True)
    (path / "lock").write_text("process 7 on another-machine since 2026-01-01 00:00:00\n")
    with pytest.raises(UserError) as error:
        made(tmp_path).starts(sweep)
    (line,) = error.value.problems
    assert line == (
        f"{path}: runs, or was killed, as process 7 on another-machine since 2026-01-01 00:00:00; "
        f"wait for it, or stop it there; if that process has ended, remove {path / 'lock'}"
    )
    (path / "lock").unlink()
    assert made(tmp_path).starts(sweep)[0] == Start(run, resume=True)


def test_a_run_that_runs_is_waited_for(sweep: Sweep, tmp_path: Path) -> None:
    ledger, run = made(tmp_path), sweep.runs[0]
    ledger.started(run)
    path = ended_run(ledger.path(run), "stopped")
    lock = take_lock(path, datetime(2026, 1, 1))
    with pytest.raises(UserError, match=r"is running; wait for it, or stop it$"):
        made(tmp_path).starts(sweep)
    lock.close()
    assert made(tmp_path).starts(sweep)[0] == Start(run, resume=False)


def test_folders_of_others_are_left_alone(sweep: Sweep, tmp_path: Path) -> None:
    ledger = made(tmp_path)
    (ledger.path(sweep.runs[0]) / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no sweep\.json.; choose another --dir"):
        made(tmp_path)
    ledger.started(sweep.runs[1])
    with pytest.raises(UserError, match="but not of this sweep"):
        made(tmp_path).starts(sweep)
    (tmp_path / "runs" / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        made(tmp_path)
    (tmp_path / "runs" / "sweep.json").unlink()
    (tmp_path / "runs" / "sweep.json").mkdir()
    with pytest.raises(UserError, match=r"sweep\.json: cannot be read: .*; choose another --dir"):
        made(tmp_path)
    with pytest.raises(UserError, match=r"try\.toml: Not a directory; choose another --dir"):
        Ledger(tmp_path / "try.toml", tmp_path / "try.toml")


# Running


class Told:
    """Watcher that keeps what it is told; `receive` gives the signals of a test."""

    def __init__(self, *signals: tuple[Callable[[], bool], int]) -> None:
        self.lines: list[tuple[object, ...]] = []
        self._signals = list(signals)

    def started(self, run: PlannedRun, place: Place, *, resume: bool) -> None:
        self.lines.append(("started", run.name, place.cores, resume))

    def ended(self, run: PlannedRun, how: Ended, failure: str) -> None:
        self.lines.append((str(how), run.name, failure))

    def stopping(self, count: int) -> None:
        self.lines.append(("stopping", count))

    def tick(self, running: Sequence[PlannedRun], waiting: int) -> None:
        pass

    def receive(self) -> int | None:
        if self._signals and self._signals[0][0]():
            return self._signals.pop(0)[1]
        return None


def ran(
    ledger: Ledger, sweep: Sweep, told: Told, script: str, jobs: int = 2, grace_s: float = 60.0
) -> int:
    """Run a sweep whose runs are this shell script: $1 is the name, $2 the folder."""
    cores = sorted(os.sched_getaffinity(0))

    def fake(run: PlannedRun, folder: Path, resume: bool) -> list[object]:
        return ["/bin/sh", "-c", script, "sh", run.name, folder, resume]

    packing = Packing(cores, jobs=jobs)
    runner = Runner(ledger, packing, told, command=fake, grace_s=grace_s)
    return runner.run(ledger.starts(sweep), cast(Signals, told))


class Screen(io.StringIO):
    """Terminal that keeps what it is given."""

    def isatty(self) -> bool:
        return True


def test_the_table_counts_the_runs_that_have_ended(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search has more to come than those that run and wait."""
    monkeypatch.setenv("TERM", "xterm-256color")
    screen, two = Screen(), sweep.runs[:2]
    with Progress(made(tmp_path), 60, quiet=False, stream=screen) as progress:
        progress.tick(two, 1)
        assert "0 of 60 runs ended, 2 run, 1 wait" in screen.getvalue()
        progress.ended(two[0], Ended.FAILED, "it fails")
        monkeypatch.setattr(progress_module, "EVERY_S", 0.0)
        progress.tick(two[1:], 1)
        assert "1 of 60 runs ended, 1 run, 1 wait" in screen.getvalue()


def test_a_run_that_fails_does_not_end_the_others(sweep: Sweep, tmp_path: Path) -> None:
    ledger, told = made(tmp_path), Told()
    failing = sweep.runs[1].name
    script = f'mkdir $2; echo "galamp: $3 alas" >&2; [ $1 != {failing} ] || exit 70'
    assert ran(ledger, sweep, told, script) == 70
    ends = [line for line in told.lines if line[0] in ("finished", "failed")]
    assert sorted(ends) == sorted(
        ("failed", run.name, "galamp: False alas")
        if run.name == failing
        else ("finished", run.name, "")
        for run in sweep.runs
    )
    known = made(tmp_path).runs
    assert {name: entry.exit_code for name, entry in known.items()} == {
        run.name: 70 if run.name == failing else 0 for run in sweep.runs
    }
    assert known[failing].failure == "galamp: False alas"
    assert known[failing].hash == sweep.runs[1].hash


def test_each_run_is_bound_to_its_cores(sweep: Sweep, tmp_path: Path) -> None:
    ledger, told = made(tmp_path), Told()
    script = 'mkdir $2; grep Cpus_allowed_list /proc/self/status > "$2/cores"'
    assert ran(ledger, sweep, told, script, jobs=0) == 0
    for line in told.lines:
        if line[0] == "started":
            allowed = (ledger.folder / str(line[1]) / "cores").read_text().split()[1]
            assert line[2] == (int(allowed),)


def test_the_first_signal_has_all_runs_save_and_starts_no_other(
    sweep: Sweep, tmp_path: Path
) -> None:
    ledger = made(tmp_path)

    def two_run() -> bool:
        return len(list(ledger.folder.glob("*/ready"))) == 2

    script = (
        'mkdir $2; trap "touch $2/saved; kill $!; exit 143" TERM; sleep 600 & touch $2/ready; wait'
    )
    told = Told((two_run, signal.SIGINT))
    assert ran(ledger, sweep, told, script) == 130
    assert len(list(ledger.folder.glob("*/saved"))) == 2
    assert [line[0] for line in told.lines] == ["started", "started", "stopping"] + ["stopped"] * 2


def test_a_second_signal_ends_the_runs_at_once(sweep: Sweep, tmp_path: Path) -> None:
    ledger = made(tmp_path)

    def all_run() -> bool:
        return len(list(ledger.folder.glob("*/ready"))) == 2

    told = Told((all_run, signal.SIGTERM), (lambda: True, signal.SIGTERM))
    script = 'mkdir $2; trap "" TERM; touch $2/ready; sleep 600'
    assert ran(ledger, sweep, told, script) == 143
    assert [entry.exit_code for entry in ledger.runs.values()] == [-signal.SIGKILL] * 2
    assert made(tmp_path).runs == ledger.runs
    assert [line[0] for line in told.lines][-2:] == ["stopped"] * 2


def test_all_runs_save_where_the_sweep_cannot_go_on(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses sweep.json ends the sweep; every run has its time to save."""
    ledger = made(tmp_path)
    first, *others = sweep.runs

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def all_run() -> bool:
        if len(list(ledger.folder.glob("*/ready"))) == len(others):
            monkeypatch.setattr(ledger, "save", refuse)
            (ledger.folder / "go").touch()
        return False

    script = f"""
        mkdir $2; cd $2/..
        [ $1 != {first.name} ] || {{ until [ -e go ]; do sleep 0.05; done; exit 0; }}
        save() {{ until [ -e {others[0].name}/saved ]; do sleep 0.05; done; sleep 1; }}
        [ $1 != {others[0].name} ] || save() {{ :; }}
        trap 'save; touch $1/saved; exit 143' TERM
        sleep 600 & touch $1/ready; wait
    """
    with pytest.raises(OSError, match="No space left"):
        ran(ledger, sweep, Told((all_run, 0)), script, jobs=4)
    assert [(ledger.path(run) / "saved").exists() for run in others] == [True] * len(others)


@pytest.mark.parametrize("obeys", [True, False])
def test_a_run_that_writes_nothing_is_ended_while_the_others_are_seen_to(
    obeys: bool, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, *others = sweep.runs
    ledger, told = made(tmp_path), Told()
    monkeypatch.setattr(
        Runner, "_is_silent", lambda _, each: each.run is hangs and (ledger.path(hangs)).exists()
    )
    ignores = "" if obeys else 'trap "" TERM; '
    script = f"{ignores}mkdir $2; [ $1 != {hangs.name} ] || exec sleep 600"
    assert ran(ledger, sweep, told, script, grace_s=0.5) == 70
    ends = [line for line in told.lines if line[0] in ("finished", "failed")]
    why = "it wrote no metrics for too long, and was ended"
    assert ("failed", hangs.name, why) in ends
    assert len(ends) == 1 + len(others)
    code = -signal.SIGTERM if obeys else -signal.SIGKILL
    assert ledger.runs[hangs.name].exit_code == code


def test_a_failure_whose_log_is_gone_does_not_end_the_others(sweep: Sweep, tmp_path: Path) -> None:
    ledger, told = made(tmp_path), Told()
    failing = sweep.runs[0].name
    script = f'mkdir $2; [ $1 != {failing} ] || {{ rm "$2/../logs/$1.log"; exit 70; }}'
    assert ran(ledger, sweep, told, script) == 70
    assert len([line for line in told.lines if line[0] == "finished"]) == 3
    assert "its log cannot be read" in ledger.runs[failing].failure


def test_what_a_run_without_checkpoint_has_left_is_moved_aside(
    sweep: Sweep, tmp_path: Path
) -> None:
    ledger = made(tmp_path)
    path = ledger.path(sweep.runs[0])
    ledger.started(sweep.runs[0])
    ended_run(path, "failed")
    assert ran(ledger, sweep, Told(), "mkdir $2") == 0
    assert (path.with_name(f"{path.name}.unsaved-1") / "summary.json").exists()
    assert ledger.runs[path.name].starts == 2


# The command


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment is tried, and torch is not loaded."""
    monkeypatch.setattr(checking, "Survey", lambda: lambda run: None)


@pytest.mark.usefixtures("unchecked")
def test_a_dry_run_lists_the_runs_and_makes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    assert main(["sweep", str(file), "--dir", str(folder), "--dry-run", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["run"], run["todo"], run["cores"]) for run in runs][:2] == [
        ("gamma-0.9-CartPole-v1-1", "starts", 1),
        ("gamma-0.9-CartPole-v1-2", "starts", 1),
    ]
    assert not folder.exists()


@pytest.mark.usefixtures("unchecked")
def test_the_end_is_a_table_of_arms_and_a_figure(
    file: Path, sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = made(tmp_path)
    for run, score in zip(sweep.runs, (1.0, 3.0, 10.0, 20.0), strict=True):
        ledger.started(run)
        ended_run(ledger.path(run), "finished", (0.0, score), seed=run.seed)
    figure = tmp_path / "scores.svg"
    words = ["sweep", str(file), "--dir", str(ledger.folder)]
    assert main([*words, "--quiet", "-o", str(figure)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.split()[:1] == ["CartPole-v1"]]
    end = ["2,000", "1", "m", "12", "s", "2", "finished"]
    assert rows == [
        ["CartPole-v1", "gamma-0.9", "2.0", "[1.0,", "3.0]", *end],
        ["CartPole-v1", "gamma-0.99", "15.0", "[10.0,", "20.0]", *end],
    ]
    assert "gamma-0.99 (2 runs)" in figure.read_text()
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [run["hash"] for run in result["runs"]] == [run.hash for run in sweep.runs]
    assert result["arms"][1]["score"] == {"iqm": 15.0, "interval": [10.0, 20.0], "seeds": 2}
    assert "it takes 4 per group" in result["statements"][0]
    assert result["notes"] == ["intervals from fewer than 5 runs are too narrow"]


def test_a_wrong_file_is_a_usage_error(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("[sweep]\njob = 1")
    assert main(["sweep", str(file)]) == 2
    assert "unknown setting sweep.job (did you mean jobs?)" in capsys.readouterr().err
    assert main(["sweep", str(tmp_path / "none.toml")]) == 2
    assert "expected a TOML file" in capsys.readouterr().err


def test_a_real_sweep_trains_its_run_and_has_nothing_left_to_do(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TEXT.replace("1000", "200").replace("[1, 2]", "[2]").replace("0.9, 0.99", "0.99")
    file.write_text(text.replace("learners = 1", "learners = 1\nsimulator_workers = 1"))
    folder = tmp_path / "runs"
    done = galamp("sweep", file, "--dir", folder, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (run,) = result["runs"]
    assert (run["state"], run["seed"]) == ("finished", 2)
    assert run["agent_steps"] >= 200
    assert "1 of 1: gamma-0.99-CartPole-v1-2 starts, cores" in done.stderr
    assert main(["sweep", str(file), "--dir", str(folder), "--dry-run"]) == 0
    assert "1 runs, 0 to do" in capsys.readouterr().out
