"""Training from Python: `galamp.train` and `galamp.Run`, and every example in a docstring."""

from __future__ import annotations

import doctest
import inspect
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import galamp
from galamp.cli.python import process as of_runs
from galamp.cli.python.page import page
from galamp.cli.python.process import RunProcess
from galamp.cli.python.run import Run
from galamp.cli.python.words import words_of
from galamp.core.errors import RunFailed, UserError
from galamp.storage.run_status import NotRunningError
from galamp.telemetry.snapshot import Snapshot
from tests.support.engine import DEADLINE_S, ROOT, wait_for

UNHURRIED = "tests.support.crashing:unhurried"
SMALL: dict[str, Any] = {"env": UNHURRIED, "learners": 1, "num_envs": 4}

LAST = 'raise SystemExit(main(request["parent"]))'
"""The last line of the child's program; before it, the child can be made to fork its servers."""

FORKING = """
import importlib, multiprocessing.util
from galamp.core.processes import probe_process
from tests.support import template
for module in template.MODULES:
    importlib.import_module(module)
sys.modules["__main__"] = importlib.import_module("galamp.__main__")
multiprocessing.util.spawnv_passfds = template._started
probe_process.Probing._execute_child = template._fork_probe
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    words = [sys.executable, "-c", code]
    return subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=2 * DEADLINE_S)


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child forks its server and its probe; those of `place` are new Pythons."""
    program = of_runs._START.replace(LAST, FORKING + LAST)
    assert program != of_runs._START
    monkeypatch.setattr(of_runs, "_START", program)


def run_examples(thing: Any, name: str) -> int:
    """Run the examples of one docstring; return how many lines there were."""
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(verbose=False)
    said: list[str] = []
    for test in finder.find(thing, name, globs={"galamp": galamp}):
        runner.run(test, out=said.append)
    results = runner.summarize(verbose=False)
    assert results.failed == 0, "".join(said)
    return results.attempted


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with `runs/cartpole`: the run that the example of `train` makes."""
    monkeypatch.chdir(tmp_path)
    assert run_examples(galamp.train, "train")


def test_arguments_and_wrappers_are_given_as_python_has_them() -> None:
    kwargs = {"sutton_barto_reward": True, "render_mode": "rgb_array"}
    wrappers = ["gymnasium.wrappers:NormalizeReward", "gymnasium.wrappers:RescaleObservation"]
    words = words_of({"env_id": "CartPole-v1", "env_kwargs": kwargs, "wrapper": wrappers})
    assert words[2:6] == [
        "--env-kwargs=sutton_barto_reward=true",
        '--env-kwargs=render_mode="rgb_array"',
        "--wrapper=gymnasium.wrappers:NormalizeReward",
        "--wrapper=gymnasium.wrappers:RescaleObservation",
    ]
    with pytest.raises(UserError, match=r"env_kwargs: .* a factory of your own"):
        words_of({"env_kwargs": {"level": object()}})


def public() -> dict[str, Any]:
    """What programs use: the functions and classes of `galamp`, and the methods of agents."""
    found: dict[str, Any] = {"Run": galamp.Run, "Result": galamp.Result, "load": galamp.load}
    for name in ("act", "predict", "logits", "value", "module", "env"):
        found[f"Agent.{name}"] = inspect.getattr_static(galamp.Agent, name)
    return found


@pytest.mark.real
@pytest.mark.usefixtures("place", "forking")
def test_examples_are_right() -> None:
    """All of one run, which takes seconds."""
    for name, thing in sorted(public().items()):
        assert run_examples(thing, name) > 0, name
    result = galamp.Result.of("runs/cartpole")
    stored = json.loads(Path("runs/cartpole/summary.json").read_text())
    assert result.summary == stored
    assert stored["ended_by"] == "request"
    assert stored["command"].startswith("galamp run ")
    for text in (result._repr_html_(), repr(result)):
        assert "finished" in text
        assert "runs/cartpole" in text
    with pytest.raises(galamp.UserError, match="not a run folder"):
        galamp.Result.of("runs")


@pytest.mark.real
@pytest.mark.usefixtures("forking")
def test_a_run_is_watched_scaled_and_stopped(tmp_path: Path) -> None:
    run = galamp.Run(**SMALL, total_steps=10**6, run_dir=tmp_path / "r")
    assert repr(run) == f"Run({UNHURRIED}, not started)"
    seen: list[Snapshot] = []
    with run:
        for snapshot in run.snapshots():
            seen.append(snapshot)
            if len(seen) == 2:
                run.scale(2)
            if len(snapshot.learners) == 2 and snapshot.agent_steps > seen[0].agent_steps:
                break
        with pytest.raises(galamp.GalampError, match=r"still trains after 0\.01 s"):
            run.wait(0.01)
        assert run.snapshot() is not None
        assert "learners</th><td" in run._repr_html_()
        assert run.folder == tmp_path / "r"
    assert not run.running
    assert run.stop() == run.wait(1) == run.result
    assert run.result.summary["start"] == 2, "scaled once"
    assert run.snapshot() == run._seen
    with pytest.raises(galamp.UserError, match="started before"):
        run.start()


@pytest.mark.real
@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize("watched", [False, True])
def test_on_a_disk_without_sockets_a_run_trains_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    def unreachable(run: Run) -> None:
        wait_for(lambda: run.folder, "the run's begin")
        raise NotRunningError("runs, but has no socket to be reached by")

    monkeypatch.setattr(Run, "snapshots", unreachable)
    small: dict[str, Any] = {**SMALL, "total_steps": 40, "run_dir": tmp_path / "r"}
    if watched:
        with pytest.raises(galamp.UserError, match="no socket"):
            galamp.train(**small, stop=lambda _: False)
    else:
        assert galamp.train(**small).agent_steps == 40


@pytest.mark.real
@pytest.mark.usefixtures("forking")
def test_a_run_ends_with_its_program(tmp_path: Path) -> None:
    program = (
        "import galamp, os\n"
        "from galamp.cli.python import process\n"
        f"process._START = {of_runs._START!r}\n"
        f"run = galamp.Run(**{SMALL!r}, run_dir={str(tmp_path / 'r')!r})\n"
        "run.start().folder\n"
        "print(run.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    supervisor = Path(f"/proc/{int(ended.stdout)}")
    wait_for(lambda: not supervisor.exists(), "the end of the supervisor")
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["ended_by"] == "request"


# --- without a run ---


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"learning_rat": 1}, r"unknown option --learning-rat=?1? \(did you mean --learning-rate"),
        ({"total_steps": -1}, "--total-steps -1: expected a whole number from 1"),
        ({"game": "Brakout"}, r"--game: unknown environment 'Brakout' \(did you mean Breakout"),
        ({"env": "CartPole-v1", "game": "Pong"}, "both name the environment"),
        ({"env": lambda: None}, "a function of a module that other processes can import"),
        ({"resume": "/nowhere"}, "--resume /nowhere: no run folder"),
        ({"quiet": True}, "quiet: not for programs"),
        ({"dry_run": True}, "dry_run: not for programs"),
        ({"sync": 3}, "--sync"),
        ({"seed": [1, 2]}, "--seed 1,2: expected a whole number"),
        ({"learners": (1, 2)}, "--learners 1,2: expected"),
        ({"game": ["Pong", "Breakout"]}, "--game: unknown environment 'Pong,Breakout'"),
        ({"sinks": ["no.module:A", "monitor"]}, "--sinks no.module:A: cannot import no"),
        ({"env": "CartPole-v1", "env_id": "Acrobot-v1"}, "env, env_id: both name the environment"),
    ],
)
def test_mistakes_are_told_before_anything_starts(given: dict[str, Any], line: str) -> None:
    with pytest.raises(galamp.UserError, match=line) as caught:
        galamp.Run(**given)
    assert len(caught.value.problems) == 1


def test_settings_become_the_words_of_the_command_line() -> None:
    given = {"env_id": "CartPole-v1", "pin": False, "seed": 3, "name": "-x", "max_time": None}
    wanted = ["--env-id=CartPole-v1", "--no-pin", "--seed=3", "--name=-x"]
    assert words_of(given) == ["run", *wanted, "--quiet", "--json"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": ["cuda:0", "cuda:1"]}, ["--device=cuda:0,cuda:1"]),
        ({"sinks": ("monitor", "tensorboard")}, ["--sinks=monitor,tensorboard"]),
        ({"seed": [3]}, ["--seed=3"]),
        ({"wrapper": ["a:B"]}, ["--wrapper=a:B"]),
        ({"wrapper": [], "sinks": []}, []),
        ({"tensorboard": True, "track": False, "profile": False}, ["--tensorboard"]),
    ],
)
def test_lists_and_switches_are_given_as_the_flag_takes_them(
    given: dict[str, Any], words: list[str]
) -> None:
    assert words_of(given) == ["run", *words, "--quiet", "--json"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"preset": "cartpole"}, "CartPole-v1"),
        ({"env_id": "Acrobot-v1"}, "Acrobot-v1"),
        ({"game": "Pong"}, "Pong"),
        ({}, "Breakout"),
    ],
)
def test_a_run_is_called_by_what_it_plays(given: dict[str, Any], name: str) -> None:
    assert name in repr(galamp.Run(**given))


def test_an_environment_is_named_by_its_function() -> None:
    run = Run(env=words_of)
    assert "--env-id=galamp.cli.python.words:words_of" in run._words


def test_what_was_not_started_says_so() -> None:
    run = galamp.Run(**SMALL)
    for use in (run.stop, lambda: run.folder, lambda: run.pid, lambda: next(run.snapshots())):
        with pytest.raises(galamp.UserError, match="was not started"):
            use()
    assert run.snapshot() is None
    assert "not started" in run._repr_html_()


def test_what_only_the_run_finds_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "galamp: warning: w\\ngalamp: --run-dir r: not empty\\nTraceback: theirs\\n"
    program = f"import sys; sys.stderr.write('{said}'); raise SystemExit(2)"
    monkeypatch.setattr("galamp.cli.python.process._START", program)
    with pytest.raises(galamp.UserError) as caught, galamp.Run(**SMALL) as run:
        list(run.snapshots())
    assert caught.value.problems == ("--run-dir r: not empty",)
    assert caught.value.details == "Traceback: theirs"
    for use in (lambda: run.result, lambda: run.folder, run.stop, lambda: run.wait(1)):
        with pytest.raises(galamp.UserError, match="not empty"):
            use()


PRINTED = ("{not JSON}", '{"loss": 1}', "[1]", "{'a': 1}")
"""What a sink of the user's may print in the supervisor."""


def test_what_a_users_code_prints_is_not_taken_for_the_runs_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = ['{"run_dir": "r"}', '{"run_dir": "r", "status": "finished"}']
    lines = [*PRINTED, told[0], *PRINTED, told[1], *PRINTED]
    monkeypatch.setattr("galamp.cli.python.process._START", f"print({chr(10).join(lines)!r})")
    process = RunProcess(["run"])
    assert process.wait(DEADLINE_S)
    assert process.folder() == Path("r")
    assert process.summary()["status"] == "finished"


TOLD = ('{"run_dir": "r"}', '{"run_dir": "r", "status": "finished"}')
"""What a run says."""


def test_of_a_run_whose_result_was_taken_no_file_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may take it just before: the numbers of its files belong to others then."""
    monkeypatch.setattr("galamp.cli.python.process._START", f"print({chr(10).join(TOLD)!r})")
    process = RunProcess(["run"])
    assert process.wait(DEADLINE_S)
    summary = process.summary()
    process.close()
    others = [os.pipe() for _ in range(3)]
    process.ask_to_end()
    assert process.folder() == Path("r")
    assert process.summary() == summary
    process.close()
    for reads, writes in others:
        os.close(writes)
        assert os.read(reads, 1) == b""
        os.close(reads)


def test_two_threads_may_take_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galamp.cli.python.process._START", f"print({chr(10).join(TOLD)!r})")
    summary_of, run = RunProcess.summary, galamp.Run(**SMALL)
    taken: list[object] = []

    def late(process: RunProcess) -> dict[str, Any]:
        monkeypatch.setattr(RunProcess, "summary", summary_of)
        other = threading.Thread(target=lambda: taken.append(run.result))
        other.start()
        other.join(DEADLINE_S)
        return process.summary()

    monkeypatch.setattr(RunProcess, "summary", late)
    monkeypatch.setattr("galamp.cli.python.run.result_of", lambda summary, *_: summary)
    assert run.start().wait(DEADLINE_S) == taken[0] == json.loads(TOLD[1])


def test_a_snapshot_of_a_run_that_has_not_begun_is_waited_for_no_longer_than_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("galamp.cli.python.process._START", "import os; os.read(0, 1)")
    run = galamp.Run(**SMALL).start()
    for timeout in (0.0, 0.1):
        with pytest.raises(galamp.GalampError, match="has not begun within 0 s"):
            run.snapshot(timeout)
    assert run._process is not None
    run._process.end(DEADLINE_S)


def test_a_child_that_ends_without_a_word_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galamp.cli.python.process._START", "raise SystemExit(70)")
    process = RunProcess(["run"])
    assert process.wait(DEADLINE_S)
    assert process.folder() is None
    with pytest.raises(RunFailed, match=r"ended without a word \(exit code 70\)"):
        process.summary()


def test_a_child_that_heeds_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('{}', flush=True); "
    monkeypatch.setattr("galamp.cli.python.process._START", deaf + "time.sleep(600)")
    monkeypatch.setattr("galamp.cli.python.process.TERMINATE_TIMEOUT_S", 0.1)
    process = RunProcess(["run"])
    wait_for(process._lines, "its first line")
    with pytest.raises(galamp.GalampError, match="has not begun within 0 s"):
        process.folder(0.01)
    process.end(0.1)
    with pytest.raises(RunFailed, match="SIGKILL"):
        process.summary()


def test_the_package_loads_nothing_before_it_is_asked() -> None:
    heavy = ("torch", "numpy", "rich", "gymnasium", "argparse")
    code = (
        f"import sys, galamp; print([n for n in {heavy} if n in sys.modules]); "
        "galamp.Run, galamp.train, galamp.Snapshot, galamp.UserError, dir(galamp); "
        "print('torch' in sys.modules)"
    )
    ended = python(code)
    assert ended.stdout == "[]\nFalse\n", ended.stderr
    assert set(galamp.__all__) <= set(dir(galamp))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = galamp.nothing


def test_pages_hold_what_they_are_given_and_nothing_else() -> None:
    shown = page({"run": "<b>&"}, ((0, 1.0), (100, 3.0), (200, 2.0)))
    assert "&lt;b&gt;&amp;" in shown
    assert shown.count("<polyline") == 1
    assert 'points="4.0,116.0 210.0,4.0 416.0,60.0"' in shown
    assert "<svg" not in page({}, ((0, 1.0),))
    assert "nan" not in page({}, ((5, 1.0), (5, 1.0)))


def test_scores_that_are_not_there_yet_are_below_nothing() -> None:
    snapshot = Snapshot("", "", "", "running", 0.0, 0, 1, 1, 0.0)
    assert math.isnan(snapshot.score)
    assert not snapshot.score > -math.inf
