"""An environment is tried out in a process of its own: what that tells, and that it always ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest

from galamp.core.config import EnvironmentConfig, ResourceConfig, RunConfig
from galamp.core.errors import StopRun, UserError
from galamp.core.machine.memory import anonymous_file
from galamp.core.processes import probe_process
from galamp.environments import finish_probe, make_environment, start_probe
from galamp.environments.base import closing_quietly
from galamp.environments.probe import try_environment
from galamp.memory.status import Phase
from galamp.storage.run_folder import StoredChoices
from galamp.supervision.child import Child
from galamp.supervision.children import BOOT_TIMEOUT_S, Children
from galamp.supervision.memory_kills import MemoryKills
from galamp.telemetry.display.streams import STARTING
from galamp.training.train import survey
from galamp.workers import simulator
from tests.support import misbehaving
from tests.support.engine import DEADLINE_S, run, running, summary, wait_for

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes

RAISED = [
    ("raising_in_make", "raised LookupError: no level of that name", "misbehaving.py", "_raise"),
    ("raising_in_reset", "raised LookupError: no level of that name", "misbehaving.py", "_raise"),
    ("raising_in_step", "raised LinAlgError: Singular matrix", "misbehaving.py", "<lambda>"),
    ("leaving_in_step", "raised SystemExit: 3", "misbehaving.py", "<lambda>"),
]


def config(name: str) -> EnvironmentConfig:
    return EnvironmentConfig(f"tests.support.misbehaving:{name}")


def line_of(file: Path, text: str) -> int:
    """Return the number of the first line of `file` that contains `text`."""
    lines = file.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize(("name", "text", "file", "function"), RAISED)
def test_what_an_environment_raises_is_told_with_its_place(
    name: str, text: str, file: str, function: str
) -> None:
    answer = try_environment(config(name))
    path = Path(misbehaving.__file__).with_name(file)
    source = "raise LookupError" if function == "_raise" else f"{name} = "
    place = f"({path}:{line_of(path, source)} in {function})"
    assert answer["problems"] == [f"tests.support.misbehaving:{name}: {text} {place}"]
    assert answer["details"].startswith("Traceback (most recent call last)")
    assert f"{path}" in answer["details"]


def test_daemons_that_an_environment_has_started_end_with_its_process() -> None:
    code = (
        "import multiprocessing, time, galamp.workers.child\n"
        "context = multiprocessing.get_context('fork')\n"
        "child = context.Process(target=time.sleep, args=(600,), daemon=True)\n"
        "child.start()\n"
        "print(child.pid)\n"
        "galamp.workers.child._exit(0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    wait_for(lambda: not running(int(ended.stdout)), "the end of the daemon")


def test_what_an_environment_raises_when_it_is_closed_ends_nothing() -> None:
    assert try_environment(config("RaisingInClose"))["spec"]["actions"]["n"] == 2


def test_what_the_import_of_a_users_module_raises_is_told_with_its_place(tmp_path: Path) -> None:
    answer = try_environment(EnvironmentConfig("tests.support.broken_module:factory"))
    path = Path(misbehaving.__file__).with_name("broken_module.py")
    [line] = answer["problems"]
    assert "raised ModuleNotFoundError: No module named 'tests.that_is_missing_here'" in line
    assert f"({path}:3 in <module>)" in line
    assert "import tests.that_is_missing_here" in answer["details"]


def test_a_syntax_error_of_a_users_module_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "misspelled_module.py").write_text("x = 1\ndef f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    [line] = try_environment(EnvironmentConfig("misspelled_module:f"))["problems"]
    assert line.startswith("misspelled_module:f: raised SyntaxError: ")
    assert line.endswith(f"({tmp_path}/misspelled_module.py:2)")


def test_what_lies_behind_a_complaint_is_told_below_it() -> None:
    answer = try_environment(config("Dependent-v0"))
    expected = "tests.support.misbehaving:Dependent-v0: box of toys is missing: pip install toys"
    assert answer["problems"] == [expected]
    assert "in needing_more" in answer["details"]
    assert try_environment(config("nothing"))["details"] == ""


def failed(name: str, timeout_s: float = 60.0) -> UserError:
    with pytest.raises(UserError) as caught:
        finish_probe(start_probe(config(name), timeout_s=timeout_s))
    return caught.value


def test_a_native_crash_is_told_with_its_stack() -> None:
    error = failed("crashing_in_reset")
    assert "did not start (killed by SIGSEGV): Fatal Python error: Segmentation fault" in str(error)
    assert "misbehaving.py" in error.details


def test_all_that_was_said_before_a_native_end_is_told() -> None:
    error = failed("aborting_in_make")
    assert str(error).endswith("did not start (exit code 7): second")
    assert error.details == "first\nsecond"


@pytest.mark.parametrize("name", ["endless_reset", "endless_step"])
def test_an_environment_has_so_long_to_start(name: str) -> None:
    error = failed(name, timeout_s=1.0)
    assert "did not start within 1 s: " in str(error)
    assert "--start-timeout-s" in str(error)


def test_a_slow_environment_is_waited_for() -> None:
    assert finish_probe(start_probe(config("slow_make"))).num_actions == 2


def test_a_thread_that_is_no_daemon_does_not_hold_the_probe_up() -> None:
    probe = start_probe(config("with_thread"), timeout_s=60)
    assert finish_probe(probe).num_actions == 2
    assert probe.returncode == 0


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the environment tells the id of a process that it has started."""
    path = tmp_path / "helper"
    monkeypatch.setenv("TEST_HELPER", str(path))
    yield path
    for pid in map(int, path.read_text().split()):
        wait_for(lambda pid=pid: not running(pid), "the end of the environment's helper")


@pytest.mark.parametrize("name", ["with_helper", "with_hidden_helpers"])
def test_a_process_that_an_environment_leaves_behind_does_not_hold_anybody_up(
    helper: Path, name: str
) -> None:
    assert finish_probe(start_probe(config(name), timeout_s=60)).num_actions == 2


def test_helpers_end_with_a_probe_that_crashes(helper: Path) -> None:
    assert "killed by SIGSEGV" in str(failed("crashing_with_helpers"))


def test_a_probe_works_where_the_ends_of_children_are_ignored(helper: Path) -> None:
    resume_point = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert finish_probe(start_probe(config("with_hidden_helpers"))).num_actions == 2
    finally:
        signal.signal(signal.SIGCHLD, resume_point)


def test_a_probe_that_is_too_late_is_ended_with_its_helpers(
    helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = start_probe(config("endless_with_helper"), timeout_s=60)
    wait_for(helper.exists, "the helper")
    wait_for(helper.read_text, "its id")
    monkeypatch.setattr(probe_process, "STACKS_S", DEADLINE_S)
    probe._until_s = 0.0
    with pytest.raises(UserError, match="did not start within 60 s") as caught:
        finish_probe(probe)
    assert "misbehaving.py" in caught.value.details, "it is told where it hangs"


@pytest.mark.parametrize("name", ["endless_with_helper", "endless_with_helpers"])
def test_nothing_is_left_of_a_probe_that_nobody_waits_for(helper: Path, name: str) -> None:
    probe = start_probe(config(name))
    count = 2 if name.endswith("s") else 1
    wait_for(lambda: helper.exists() and len(helper.read_text().split()) == count, "its helpers")
    probe.cancel()
    assert probe.returncode == -9


def test_the_terminal_gets_one_line_and_the_traceback(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = run("--env-id", "tests.support.misbehaving:raising_in_reset", "--run-dir", folder)
    assert ended.returncode == 2
    first, second, *_, last = ended.stderr.removeprefix(STARTING).splitlines()
    assert first.startswith(
        "galamp: tests.support.misbehaving:raising_in_reset: raised LookupError: no "
    )
    assert second == "Traceback (most recent call last):"
    assert last == "environment 0 has seed 0"
    assert ended.stdout == ""
    assert not folder.exists()


def test_the_limit_can_be_set() -> None:
    settings = RunConfig(
        environment=config("endless_make"), resources=ResourceConfig(start_timeout_s=1.0)
    )
    with pytest.raises(UserError, match="endless_make: did not start within 1 s"):
        survey(settings, StoredChoices())


def test_who_leaves_with_a_thread_that_is_no_daemon_leaves_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what a simulator raises, `SystemExit` included, nor the end of a run waits for it."""
    monkeypatch.setenv("TEST_FAILED_ONCE", str(tmp_path / "failed"))
    flags = ["--total-steps", 2000, "--learners", 1, "--num-envs", 2, "--quiet"]
    folder = tmp_path / "run"
    ended = run("--env-id", "tests.support.misbehaving:LeavingOnce", *flags, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    told = summary(folder)
    assert (told["status"], told["restarts"]) == ("finished", 1)
    [report] = (folder / "logs").glob("simulator-*.crash-*.json")
    assert '"cause": "raised SystemExit:"' in report.read_text()


def test_every_environment_that_is_made_or_reset_shows_progress() -> None:
    """A simulator of many slow environments is no hanging one."""
    seen: list[int] = []
    environment = make_environment(config("healthy"), [1, 2, 3], progress=lambda: seen.append(1))
    assert len(seen) == 3
    environment.reset()
    assert len(seen) == 6
    environment.close()


@pytest.mark.parametrize(
    ("role", "worked", "begun", "phase", "timeout_s", "flag"),
    [
        ("simulator", False, True, Phase.BOOT, 300.0, "--start-timeout-s"),
        ("simulator", False, True, Phase.STEP, 300.0, "--start-timeout-s"),
        ("learner", False, True, Phase.BOOT, 300.0, "--start-timeout-s"),
        ("simulator", True, False, Phase.BOOT, 400.0, "--hang-after-s"),
        ("simulator", True, False, Phase.STEP, 300.0, "--start-timeout-s"),
        ("learner", True, False, Phase.COLLECT, 300.0, "--start-timeout-s"),
        ("simulator", True, True, Phase.STEP, 50.0, "--hang-after-s"),
    ],
)
def test_the_limits_of_a_hang_can_be_set_and_are_named(
    role: str, worked: bool, begun: bool, phase: Phase, timeout_s: float, flag: str
) -> None:
    """Also of a later incarnation, whose environment's first step takes as long again."""
    child = SimpleNamespace(
        role=role, has_worked=worked, has_begun=begun, row=SimpleNamespace(phase=phase), boot_s=40.0
    )
    limit = children(ResourceConfig(start_timeout_s=300.0, hang_after_s=50.0))._limit(
        cast(Child, child)
    )
    assert (limit.timeout_s, limit.flag) == (timeout_s, flag)


@pytest.mark.parametrize("role", ["learner", "simulator"])
def test_a_process_has_its_time_to_load_whatever_one_environment_has(role: str) -> None:
    row = SimpleNamespace(phase=Phase.BOOT)
    child: Any = SimpleNamespace(role=role, has_worked=False, row=row)
    assert children(ResourceConfig(start_timeout_s=1.0))._limit(child).timeout_s == BOOT_TIMEOUT_S


@pytest.mark.parametrize("moment", ["make", "reset"])
def test_what_a_simulator_raises_at_its_start_is_told_with_its_seeds(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    for name in ("ControlBlock", "StatusBoard", "SimulatorPort"):
        monkeypatch.setattr(simulator, name, MagicMock())
    environment = config(f"raising_in_{moment}")
    task: Any = SimpleNamespace(
        arrays=None, rank=0, worker=1, index=1, learners=1, remote=0, shape=None, wake=None,
        environment=environment, seeds=(7, 8), process_seed=3, threads=1,
        incarnation=2,
    )  # fmt: skip
    with pytest.raises(LookupError) as caught:
        simulator.main(task)
    note = caught.value.__notes__[-1]
    assert "incarnation 2 of simulator 0.1, environments with seeds [7, 8]" in note


def test_who_hangs_is_told_with_the_limit_that_can_be_set() -> None:
    causes: list[str] = []
    beats = SimpleNamespace(still_s=301.0, observe=MagicMock(), exceeds=lambda least, gaps: True)
    child = SimpleNamespace(
        role="simulator", has_worked=False, row=SimpleNamespace(phase=Phase.BOOT), beats=beats,
        turns=MagicMock(), note_boot=MagicMock(), hung=False, declare_hung=causes.append,
    )  # fmt: skip
    watching: Any = children(ResourceConfig(start_timeout_s=300.0))
    watching.with_process = lambda: [child]
    watching.check(0.05)
    assert causes == ["hung: no progress for 301 s in phase boot (more time: --start-timeout-s)"]


def test_what_an_environment_raises_when_it_is_closed_goes_to_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with closing_quietly(make_environment(config("RaisingInClose"), [1])):
        pass
    assert "OSError: the window is closed already" in capsys.readouterr().err


def children(resources: ResourceConfig) -> Children:
    children = object.__new__(Children)
    children._memory_kills = MemoryKills()
    children._hang_after_s, children._start_timeout_s = (
        resources.hang_after_s,
        resources.start_timeout_s,
    )
    return children


def test_a_system_that_refuses_memory_without_a_name_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The probe asks for such memory before the run does."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(UserError, match=r"memfd_create: Operation not permitted\): allow it"):
        start_probe(config("stepping"), timeout_s=1.0, seed=0)


def test_what_a_probe_writes_takes_bounded_memory() -> None:
    file = anonymous_file("galamp-test")
    try:
        for number in range(10):
            os.write(file, b"%d" % number * 2**20)
            probe_process._free_all_but_end(file)
            assert os.fstat(file).st_blocks * 512 <= probe_process.MAX_ERRORS_BYTES + 2**20
        assert probe_process._read(file, probe_process.TAIL_BYTES) == "9" * probe_process.TAIL_BYTES
    finally:
        os.close(file)


def test_a_probe_that_somebody_else_has_reaped_is_not_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process id, and so its group's, may be another's by then."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: killed.append(group))
    probe = start_probe(config("raising_in_make"))
    os.waitpid(probe.pid, 0)
    probe.cancel()
    assert killed == []


def test_a_simulator_looks_for_what_its_environment_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has adopted that: as zombies they would stay until it ends."""
    mocks = {name: MagicMock() for name in ("ControlBlock", "StatusBoard", "EpisodeRing")}
    mocks |= {name: MagicMock() for name in ("SimulatorPort", "Strays")}
    for name, mock in mocks.items():
        monkeypatch.setattr(simulator, name, mock)
    actions = np.zeros(2, np.int64)
    mocks["SimulatorPort"]().actions.side_effect = [actions, actions, StopRun]
    task: Any = SimpleNamespace(
        arrays=None, rank=0, worker=0, index=0, learners=1, remote=0, shape=None, wake=None,
        environment=EnvironmentConfig("CartPole-v1"), seeds=(7, 8), process_seed=3, threads=1,
        incarnation=0,
    )  # fmt: skip
    with pytest.raises(StopRun):
        simulator.main(task)
    assert mocks["Strays"]().reap.call_count == 2
