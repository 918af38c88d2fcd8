"""`bin/bench gpu`: the order and the time of its steps, its children, and the command itself.

Most steps here are made up; those marked slow are real, on GPUs of host memory and on CPUs.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from galamp.core.errors import RunFailed, UserError
from galamp.core.machine.machine import plain_machine
from galamp.tools.bench import cli, commands, processes, tables
from galamp.tools.bench.gpu import children, command, learners, parity, pong
from galamp.tools.bench.gpu.steps import (
    END_S,
    Deadline,
    Job,
    Late,
    Outcome,
    Report,
    Result,
    Step,
    cause,
    run_steps,
)
from galamp.tools.bench.runs import Workload
from tests.fakecuda.inside import settings
from tests.support.engine import ROOT, running, wait_for

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes

JOB = Job(
    Workload("ALE/Breakout-v5", "breakout", 1, 1, "gala"),
    device="cuda:0",
    learners=(1, 2, 4),
    total_envs=(64, 256),
    precisions=("float32",),
    seconds=6.0,
    warm_up_s=2.0,
)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# Steps


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Steps:
    """Steps that take time on a fake clock, and what `run_steps` showed and kept of them."""

    def __init__(self) -> None:
        self.clock, self.shown, self.kept = FakeClock(), list[str](), list[Outcome]()
        self.steps: list[Step] = []

    def add(
        self, name: str, seconds: float, then: Callable[[Report, Deadline], None], **times: float
    ) -> None:
        """Add a step that does something after so many seconds."""

        def run(job: Job, report: Report, deadline: Deadline) -> None:
            assert job is JOB
            self.clock.now_s += min(seconds, deadline.left_s)
            deadline.check(f"the end of {name}")
            then(report, deadline)

        limits = {"limit_s": 60.0, "min_s": 5.0} | times
        self.steps.append(Step(name, f"does {name}", run=run, **limits))

    def run(self, limit_s: float = 540.0) -> list[Outcome]:
        return run_steps(self.steps, JOB, limit_s, self.shown.append, self.kept.append, self.clock)


def nothing(report: Report, deadline: Deadline) -> None:
    report.values["did"] = "nothing"


def fail(error: Exception) -> Callable[[Report, Deadline], None]:
    def then(report: Report, deadline: Deadline) -> None:
        report.say("begun")
        raise error

    return then


def test_no_step_stops_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    steps.add("fails", 1.0, fail(RunFailed("it ended", "with code 3")))
    steps.add("breaks", 1.0, fail(KeyError("gpus")))
    steps.add("hangs", 1e9, nothing, limit_s=30.0)
    steps.add("judges", 1.0, lambda report, _: report.judge(["too far apart"]))
    steps.add("passes", 2.0, nothing)
    outcomes = steps.run()
    assert [(o.step, o.result, o.seconds, o.problems) for o in outcomes] == [
        ("fails", Result.FAILED, 1.0, ("it ended", "with code 3")),
        ("breaks", Result.FAILED, 1.0, ("KeyError: 'gpus'",)),
        ("hangs", Result.LATE, 30.0, ("the end of hangs did not happen in time (30 s)",)),
        ("judges", Result.FAILED, 1.0, ("too far apart",)),
        ("passes", Result.PASSED, 2.0, ()),
    ]
    assert steps.kept == outcomes
    assert outcomes[-1].values == {"did": "nothing"}
    assert steps.shown[:3] == [
        "1/5 fails: does fails",
        "    begun",
        "    failed after 1.0 s: it ended; with code 3",
    ]
    assert "    WRONG: too far apart" in steps.shown
    assert "Traceback" in capsys.readouterr().err, "a defect of a step is told in full"
    assert command.exit_code(outcomes) == 1


def test_what_no_longer_fits_is_named() -> None:
    steps = Steps()
    steps.add("long", 50.0, nothing)
    steps.add("longer", 100.0, nothing, limit_s=200.0)
    steps.add("large", 1.0, nothing, min_s=30.0)
    steps.add("small", 1.0, nothing)
    outcomes = steps.run(limit_s=100.0)
    assert [o.result for o in outcomes] == ["passed", "late", "left out", "left out"]
    assert outcomes[1].seconds == pytest.approx(50.0 - END_S), "there has to be time for its end"
    assert outcomes[2].problems == ("it needs 30 s, 0 s are left",)
    assert any("left out" in line and "30 s" in line for line in steps.shown)
    assert steps.clock.now_s <= 100.0


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([Result.PASSED, Result.PASSED], 0),
        ([Result.PASSED, Result.LEFT_OUT], 0),
        ([Result.PASSED, Result.FAILED], 1),
        ([Result.LATE, Result.PASSED], 1),
        ([Result.LEFT_OUT], 1),
        ([], 1),
    ],
)
def test_exit_codes(results: list[Result], code: int) -> None:
    assert command.exit_code([Outcome("x", result, 0.0, (), {}) for result in results]) == code


def test_interruptions_end_all_steps() -> None:
    steps = Steps()
    for error in (KeyboardInterrupt(), SystemExit(143)):

        def then(report: Report, deadline: Deadline, error: BaseException = error) -> None:
            raise error

        steps.add("is interrupted", 1.0, then)
        with pytest.raises(type(error)):
            steps.run()
        steps.steps.clear()


def test_the_cause_is_what_was_raised_first() -> None:
    log = [
        "Traceback (most recent call last):",
        '  File "a2c.py", line 1',
        "torch.AcceleratorError: operation not permitted when stream is capturing",
        "",
        "During handling of the above exception, another exception occurred:",
        "RuntimeError: operation failed due to a previous error during capture",
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
    ]
    assert cause(log) == log[2]
    assert cause(log[-1:]) == log[-1]
    assert cause([""]) == "it does not say why"


# Children


CHILD = f"""
import sys, time
print("a warning of torch's", file=sys.stderr)
print('{children.MARK}{{"first": 1, "second": 2}}', flush=True)
print('{children.MARK}{{"second": 3}}', flush=True)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Stand in for a child that tells two values, and then does what it is told to."""

    def write(then: str) -> None:
        script, path = tmp_path / "child.py", tmp_path / "python"
        script.write_text(CHILD + then)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return write


def test_a_child_tells_its_values(child: Callable[[str], None]) -> None:
    child("print('and a last word')")
    report = Report(print)
    assert children.ask("facts", (), report, Deadline(60.0)) == {"first": 1, "second": 3}


def test_a_child_that_fails_has_told_its_values(child: Callable[[str], None]) -> None:
    child("sys.exit('CUDA error: unspecified launch failure')")
    report = Report(print)
    with pytest.raises(RunFailed, match="facts ended with code 1: CUDA error: unspecified"):
        children.ask("facts", (), report, Deadline(60.0))
    assert report.values == {"first": 1, "second": 3}


def test_a_child_that_hangs_is_ended(
    child: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ABORT_GRACE_S", 0.2)
    pids = tmp_path / "pids"
    child(
        f"""
import os, signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen(["sleep", "600"])
with open({str(pids)!r}, "w") as file:
    file.write(f"{{os.getpid()}} {{below.pid}}")
time.sleep(600)
"""
    )
    report, deadline = Report(print), Deadline(1e9)
    deadline_s = time.monotonic() + 60.0

    class UntilItHangs(Deadline):
        @property
        def left_s(self) -> float:
            over = (pids.exists() and " " in pids.read_text()) or time.monotonic() > deadline_s
            return 0.0 if over else deadline.left_s

    with pytest.raises(Late, match="the end of facts did not happen in time"):
        children.ask("facts", (), report, UntilItHangs(1e9))
    assert report.values == {"first": 1, "second": 3}
    hanging, below = map(int, pids.read_text().split())
    wait_for(lambda: not running(hanging) and not running(below), "the end of both")


def test_lines_that_are_no_findings_are_passed_over() -> None:
    lines = ["", "torch: found {}", f'{children.MARK}{{"a": 1}}', f'{children.MARK}{{"b": 2']
    assert children.told(lines) == {"a": 1}


# The command


def options_of(*words: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(["gpu", *words])


def test_steps_are_chosen_by_name() -> None:
    names = [step.name for step in command.STEPS]
    assert [step.name for step in command.chosen("")] == names
    assert [step.name for step in command.chosen("pong, facts")] == ["facts", "pong"]
    with pytest.raises(UserError, match=r"'parrity': expected some of .*\(did you mean parity"):
        command.chosen("parrity")


def test_the_defaults_fit_into_nine_minutes() -> None:
    args = options_of()
    assert args.limit_s == 540.0
    assert sum(step.min_s for step in command.STEPS) < args.limit_s - END_S
    for step in command.STEPS:
        assert 0 < step.min_s <= step.limit_s


def test_full_is_more() -> None:
    job = command.job_from(options_of(), JOB.workload)
    assert (job.learners, job.total_envs, job.precisions) == ((1, 2, 4), (64, 256), ("float32",))
    full = command.job_from(options_of("--full"), JOB.workload)
    assert full.learners == (1, 2, 4, 8)
    assert full.precisions == ("float32", "bf16")


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(command, "inspect_machine", lambda device: plain_machine([0], count, 64))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "is built for CPUs only: install a build with CUDA"),
        ("--steps nothing", "--steps 'nothing': expected some of facts,trial,parity"),
        ("--learners 3 --total-envs 16", "expected a multiple of 3"),
        ("--total-envs 20 --full", "expected a multiple of 8"),
        ("--game CartPole-v1", "expected an Atari game"),
        ("--limit-s 0", "expected seconds"),
    ],
)
def test_nothing_is_started_without_a_gpu_or_with_wrong_words(
    words: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(command, "run_steps", lambda *_: pytest.fail("a step was run"))
    try:
        code: Any = cli.main(["gpu", *words.split()])
    except SystemExit as left:
        code = left.code
    told = capsys.readouterr()
    assert code == 2
    assert says in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_a_gpu_that_is_not_seen_is_told_from_a_build_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert cli.main(["gpu"]) == 2
    assert "is the driver loaded" in capsys.readouterr().err


def test_gpus_that_cannot_be_used_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = plain_machine([0], 3, 64)
    used: list[str] = []
    step = Step("x", "does x", 60, 5, lambda job, *_: used.append(job.device))
    monkeypatch.setattr(command, "STEPS", (step,))
    for usable, code in ((machine.gpus[1:], 0), ((), 2)):
        unusable = {"cuda:0": "the driver is too old"}
        here = replace(machine, gpus=usable, unusable=unusable)
        monkeypatch.setattr(command, "inspect_machine", lambda device, here=here: here)
        assert cli.main(["gpu"]) == code
    told = capsys.readouterr()
    assert used == ["cuda:1"]
    assert "cuda:0 is left out: the driver is too old" in told.out
    assert "a GPU that can be used: cuda:0: the driver is too old" in told.err


def test_the_limit_is_measured_on_a_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = plain_machine([0], 3, 64)
    last = replace(machine.gpus[2], uuid="c")
    here = replace(machine, gpus=(last,), unusable={"cuda:0": "is gone", "cuda:1": "is gone"})
    monkeypatch.setattr(command, "inspect_machine", lambda device: here)
    assert commands.uuid_of("cuda:2") == ("c",)
    with pytest.raises(RunFailed, match="cuda:1 cannot be used: is gone"):
        commands.uuid_of("cuda:1")
    with pytest.raises(UserError, match=r"--device cuda:3.*use cuda:2"):
        commands.uuid_of("cuda:3")


def test_a_file_that_cannot_be_written_is_told_before_any_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, 1)
    monkeypatch.setattr(command, "run_steps", lambda *_: pytest.fail("a step was run"))
    assert cli.main(["gpu", "--json", "/no/such/folder/rows"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_exit_code_and_the_rows_are_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def passes(job: Job, report: Report, deadline: Deadline) -> None:
        report.say(f"on {job.device}")
        report.values["loss"] = math.nan

    def fails(job: Job, report: Report, deadline: Deadline) -> None:
        raise RunFailed("no luck")

    gpus(monkeypatch, 1)
    steps = (Step("good", "passes", 60, 5, passes), Step("bad", "fails", 60, 5, fails))
    monkeypatch.setattr(command, "STEPS", steps)
    file = tmp_path / "rows"
    file.write_text("before\n")
    assert cli.main(["gpu", "--steps", "good", "--json", str(file)]) == 0
    assert cli.main(["gpu", "--json", str(file)]) == 1
    kept, *lines = file.read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert kept == "before"
    assert [(row["step"], row["result"]) for row in found] == [
        *(("good", "passed"), ("good", "passed"), ("bad", "failed")),
    ]
    assert found[0]["values"] == {"loss": None}
    assert found[2]["problems"] == ["no luck"]
    assert found[0]["machine"]["torch"] == tables.Origin.here("").machine["torch"]
    assert found[0]["command"].startswith("bin/bench gpu --steps good")
    shown = capsys.readouterr().out
    assert "    on cuda:0" in shown
    assert "    failed after 0.0 s: no luck" in shown


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["learner", "kill", "resume", "pong"])
def test_steps_that_train_do_so_on_cpus_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same with another device; only for as long as is needed to see that."""
    monkeypatch.setattr(learners, "TRAINED_S", 1.0)
    monkeypatch.setattr(learners, "ONE_OF_FOUR", 2)
    monkeypatch.setattr(learners, "STEPS_PER_START", 400)
    monkeypatch.setattr(pong, "TRAINED_S", 5.0)
    monkeypatch.setattr(pong, "NUM_ENVS", 2)
    monkeypatch.setattr(pong, "MIN_ROWS", 2)
    (chosen,) = command.chosen(name)
    shown: list[str] = []
    chosen = replace(chosen, limit_s=300.0)
    (outcome,) = run_steps(
        [chosen], replace(JOB, device="cpu"), 390.0, shown.append, lambda _: None
    )
    told = "\n".join(shown)
    if name == "pong":  # of so few updates, the losses may be alike or not
        assert set(outcome.values) == {"until", "gpu", "cpu"}, shown
        assert outcome.values["until"] > 0
        assert all("on the GPU" in problem for problem in outcome.problems)
        return
    words = {
        "learner": "agent steps/s with 64 environments",
        "kill": "learner 1 learned again",
        "resume": "cpu: 1,2",
    }
    assert outcome.result == "passed", shown
    assert words[name] in told
    if name == "kill":
        assert min(outcome.values["updates_of_others"]) > 0


BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("matplotlib", "pynvml", "cv2", "PIL"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Missing())
from galamp.tools.bench import cli
from galamp.tools.bench.gpu import command
from galamp.core.machine.machine import plain_machine
command.inspect_machine = lambda device: plain_machine([0], 1, 64)
command.STEPS = command.STEPS[:1]
sys.exit(cli.main(["gpu"]))
"""


def test_what_may_be_missing_on_a_gpu_machine_is_not_imported() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    # There is no GPU, so the first step fails: that is as far as it gets, and no import did.
    assert ended.returncode == 1, ended.stderr
    assert "torch sees no GPU" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_first_steps_on_gpus_of_host_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings(2).items():
        monkeypatch.setenv(name, value)
    gpus(monkeypatch, 2)
    monkeypatch.setattr(parity, "UPDATES", 2)
    file = tmp_path / "rows"
    words = ["gpu", "--steps", "facts,trial,parity", "--network", "gala", "--json", str(file)]
    assert cli.main(words) == 0, capsys.readouterr().out
    found = {row["step"]: row["values"] for row in map(json.loads, file.read_text().splitlines())}
    assert [gpu["name"] for gpu in found["facts"]["gpus"]] == ["Fake GPU 0", "Fake GPU 1"]
    assert found["trial"]["register_code"] == 0
    assert found["trial"]["launch_us"] > 0
    assert found["parity"]["moved"] > 0
    assert found["parity"]["float32"]["gradient"] < 1e-4
    for name in parity.RECORDED:
        assert found["parity"][name]["actions"] == 0
        assert found["parity"][name]["gradient"] < 1e-4
    shown = capsys.readouterr().out
    assert shown.count("passed after") == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_gpu_without_kernels_fails_the_trial_and_not_the_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings(1, no_kernel="0").items():
        monkeypatch.setenv(name, value)
    gpus(monkeypatch, 1)
    assert cli.main(["gpu", "--steps", "facts,trial"]) == 1
    shown = capsys.readouterr().out
    assert "passed after" in shown
    assert "no kernel image is available" in shown
