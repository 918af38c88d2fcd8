"""`galamp profile`: what it makes of py-spy's samples, and the real py-spy on a real run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galamp.cli.main import main
from galamp.cli.run import _profiling
from galamp.core.errors import GalampError, UserError
from galamp.core.processes import tracing
from galamp.core.processes.tracing import NOBODY, TracingPermit
from galamp.telemetry.display.text import UNKNOWN
from galamp.telemetry.snapshot import LEARNER_PHASES
from galamp.tools.profile import first_minute, recording
from galamp.tools.profile.flame_graph import flame_graph
from galamp.tools.profile.recording import Recording, rate_for, record
from galamp.tools.profile.report import as_json, lines
from galamp.tools.profile.speedscope import speedscope
from galamp.tools.profile.stacks import Samples, idle_share, parse, phases_of, shares
from galamp.training.control.server import ControlServer
from tests.support.engine import DEADLINE_S, ROOT, galamp, started, training, wait_for
from tests.support.snapshots import busy

SVG = "{http://www.w3.org/2000/svg}"
BELOW = (
    "<module> (<string>:1);main (multiprocessing/forkserver.py:167);"
    "BaseProcess._bootstrap (multiprocessing/process.py:290);"
    "child_main (galamp/workers/child.py:93);"
)
LEARNER = BELOW + "main (galamp/workers/learner.py:53);Learner.run (galamp/workers/learner.py:149);"
COLLECT = LEARNER + "Collector.collect (galamp/workers/collector.py:92);"
RECEIVE = COLLECT + "LearnerPort.receive (galamp/memory/rollout_ports.py:204);"
UPDATE = LEARNER + "Learner._update (galamp/workers/learner.py:197);"
EXCHANGE = LEARNER + "Learner._exchange (galamp/workers/learner.py:205);"
RAW = f"""\
{RECEIVE}Wakeup.wait (galamp/memory/arrays.py:223) 30
{COLLECT}LearnerPort.send (galamp/memory/rollout_ports.py:220) 10
{COLLECT}HostActor.act (galamp/workers/acting.py:90);conv2d (torch/nn/functional.py:1) 20
{UPDATE}A2C.update (galamp/algorithms/a2c.py:1) 25
{UPDATE}Learner._reduce (galamp/workers/learner.py:210) 5
{EXCHANGE}Exchange.turn (galamp/gossip/exchange.py:1) 8
{LEARNER}Learner._save_if_due (galamp/workers/learner.py:260) 2
not a stack at all
"""


@pytest.fixture
def learner() -> Samples:
    return parse(7, "learner 0", RAW)


def simulator(number: int = 0) -> Samples:
    own = "main (galamp/workers/simulator.py:60)"
    wait = "SimulatorPort.actions (galamp/memory/rollout_ports.py:85)"
    step = "AtariEnvironment.step (galamp/environments/atari.py:80)"
    stacks = Counter({(own, wait): 1, (own, step): 3})
    return Samples(8 + number, f"simulator {number}.0", stacks)


def test_samples_are_told_by_the_phases_of_the_dashboard(learner: Samples) -> None:
    assert learner.total == 100
    assert set(phases_of("learner")) == set(LEARNER_PHASES)
    assert shares(learner) == {
        "collect": 0.30, "infer": 0.30, "update": 0.25, "gossip": 0.13, "other": 0.02,
    }  # fmt: skip


def test_waiting_for_a_wakeup_is_idle(learner: Samples) -> None:
    assert idle_share(learner) == 0.30


def test_what_is_below_the_processes_own_loop_is_cut(learner: Samples) -> None:
    assert {stack[0] for stack in learner.stacks} == {"main (galamp/workers/learner.py:53)"}
    early = parse(1, "learner 0", "<module> (<string>:1);child_main (galamp/workers/child.py:93) 4")
    assert [len(stack) for stack in early.stacks] == [2], "it was not there yet"


def test_a_flame_graph_shows_every_frame_as_wide_as_its_share(learner: Samples) -> None:
    root = ET.fromstring(flame_graph("two: <learner>", [learner, learner]))
    assert root.find(f"{SVG}text").text == "two: <learner>"  # type: ignore[union-attr]
    found = {}
    for group in root.iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert box is not None
        found[str(title.text)] = float(box.attrib["width"]), box.attrib["fill"]
    width, colour = found["A2C.update (galamp/algorithms/a2c.py:1): 25.0% of 200 samples"]
    assert width == pytest.approx(1200 * 0.25, abs=1)
    idle = "Wakeup.wait (galamp/memory/arrays.py:223): 30.0% of 200 samples"
    assert found[idle][1] != colour
    assert found["main (galamp/workers/learner.py:53): 100.0% of 200 samples"][0] > 1199


def test_speedscope_has_a_profile_per_process_with_its_title(learner: Samples) -> None:
    content = json.loads(speedscope("two", [learner, simulator()], 100))
    names = [each["name"] for each in content["profiles"]]
    assert names == ["learner 0 (process 7)", "simulator 0.0 (process 8)"]
    frames = content["shared"]["frames"]
    for profile in content["profiles"]:
        assert sum(profile["weights"]) == pytest.approx(profile["endValue"])
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(0 <= frame < len(frames) for stack in profile["samples"] for frame in stack)
    assert content["profiles"][0]["endValue"] == 1.0


def test_the_report_stands_beside_the_dashboards_shares(learner: Samples) -> None:
    found = Recording([learner, *map(simulator, range(5))], {"learner 1": "it ended"}, 100)
    text = "\n".join(lines("runs/two", 10, found, busy(2)))
    assert "profile of runs/two: 10 s, 6 processes, 100 samples/s of each" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["collect", "30.0%", "41.0%"] in rows
    assert ["gossip", "13.0%", "4.0%"] in rows
    assert ["of", "it", "waiting", "30.0%", UNKNOWN] in rows
    assert ["step", "75.0%"] in rows, "five simulators have one column"
    assert "learner 1: not recorded: it ended" in text
    assert max(map(len, text.splitlines())) <= 100
    values = as_json(10, found, busy(2))
    assert values["dashboard"]["collect"] == pytest.approx(0.41)
    assert values["processes"][0]["phases"]["update"] == 0.25


def test_many_processes_are_sampled_less_often() -> None:
    assert [rate_for(number) for number in (1, 10, 50, 1000)] == [100, 100, 20, 10]


# Permission


def test_a_process_permits_whom_it_is_told_to_and_only_once() -> None:
    wished, given = [NOBODY], []
    permit = TracingPermit(lambda: wished[0], given.append)
    for wished[0] in (NOBODY, 42, 42, NOBODY, NOBODY, 7):
        permit.follow()
    assert given == [42, NOBODY, 7]


def fake(tmp_path: Path, says: str) -> str:
    """Return the path of a py-spy that only fails."""
    path = tmp_path / "py-spy"
    path.write_text(f"#!/bin/sh\necho 'Error: {says}' >&2\nexit 1\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("0", "in a container, start it with --cap-add SYS_PTRACE"),
        ("1", "sudo sysctl kernel.yama.ptrace_scope=0"),
        ("2", "sudo sysctl kernel.yama.ptrace_scope=0"),
        ("3", "until the next boot"),
    ],
)
def test_where_the_kernel_forbids_it_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str, words: str
) -> None:
    (tmp_path / "scope").write_text(f"{scope}\n")
    monkeypatch.setattr(tracing, "PTRACE_SCOPE", tmp_path / "scope")
    with pytest.raises(UserError) as refused:
        record(fake(tmp_path, "Permission Denied: Try running again"), {1: "learner 0"}, 1)
    (line,) = refused.value.problems
    assert words in line


def test_another_failure_is_py_spys_own(tmp_path: Path) -> None:
    with pytest.raises(GalampError, match="no such process") as failed:
        record(fake(tmp_path, "no such process"), {1: "learner 0"}, 1)
    assert not isinstance(failed.value, UserError)


RECORDS = """#!/bin/sh
while [ "$1" != --output ]; do shift; done
"""
"""Begin of a py-spy whose $2 is the file for its samples."""


def test_a_py_spy_that_complains_at_length_is_not_stopped_by_it(tmp_path: Path) -> None:
    spy = tmp_path / "py-spy"
    complain = "head -c 300000 /dev/zero | tr '\\0' x >&2\n"
    spy.write_text(f"{RECORDS}{complain}echo 'main (a.py:1) 5' > \"$2\"\n")
    spy.chmod(0o700)
    (samples,) = record(str(spy), {1: "learner 0"}, 1).samples
    assert samples.total == 5


SPYING = """
import sys
from galamp.tools.profile.recording import record
record(sys.argv[1], {1: "learner 0"}, 60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_it_no_py_spy_and_no_file_is_left(
    tmp_path: Path, number: signal.Signals
) -> None:
    spy, files, pid = tmp_path / "py-spy", tmp_path / "files", tmp_path / "pid"
    spy.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600\n")
    spy.chmod(0o700)
    files.mkdir()
    words = [sys.executable, "-c", SPYING, str(spy)]
    with subprocess.Popen(
        words, cwd=ROOT, env=os.environ | {"TMPDIR": str(files)}, stderr=subprocess.DEVNULL
    ) as process:
        wait_for(pid.exists, "the start of py-spy")
        process.send_signal(number)
        process.wait(DEADLINE_S)
    assert list(files.iterdir()) == []
    assert not Path(f"/proc/{int(pid.read_text())}").exists()


def test_where_one_cannot_be_started_the_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def spy(*_: object) -> subprocess.Popen[bytes]:
        if begun:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        begun.append(subprocess.Popen(["sleep", "600"]))
        return begun[0]

    monkeypatch.setattr(recording, "_spy", spy)
    with pytest.raises(BlockingIOError):
        record("py-spy", {1: "learner 0", 2: "learner 1"}, 60)
    assert begun[0].returncode is not None


def test_without_py_spy_it_is_told_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording.shutil, "which", lambda name, path: None)
    for words in (["profile", str(tmp_path)], ["run", "--profile", "--run-dir", str(tmp_path)]):
        assert main(words) == 2
        assert "needs py-spy, which is not installed: " in capsys.readouterr().err


def test_a_run_that_does_not_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "py_spy", lambda: "py-spy")
    assert main(["profile", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_nothing_is_left_where_nothing_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    spy = fake(tmp_path / "bin", "Operation not permitted")
    monkeypatch.setattr(recording, "py_spy", lambda: spy)
    monkeypatch.setattr(tracing, "PTRACE_SCOPE", tmp_path / "none")
    run = tmp_path / "run"
    run.mkdir()
    with ControlServer(run, print) as server, ThreadPoolExecutor(1) as pool:
        server.tracing.configure(lambda: {1: "learner 0"}, lambda pid: None)
        found = pool.submit(main, ["profile", str(run)])
        while not found.done():
            server.poll()
    assert found.result() == 2
    assert "--cap-add SYS_PTRACE" in capsys.readouterr().err
    assert list((run / "profiles").iterdir()) == []


# The real one


def spying_refused() -> str:
    """Return why py-spy can read no process here; empty if it can."""
    beside = os.path.dirname(sys.executable)
    program = shutil.which("py-spy", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        return "py-spy is not installed: pip install py-spy"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        words = [program, "dump", "--pid", str(child.pid)]
        found = subprocess.run(words, capture_output=True, text=True, timeout=60)
    finally:
        child.communicate(b"\n")
    denied = any(word in found.stderr.lower() for word in recording.DENIED)
    return f"the kernel does not permit it: {found.stderr.strip()}" if denied else ""


def test_py_spy_records_every_process_of_a_run(tmp_path: Path) -> None:
    if why := spying_refused():
        pytest.skip(why)
    folder, out = tmp_path / "two", tmp_path / "profile"
    env = ("--env-id", "tests.support.crashing:unhurried")
    flags = (*env, "--learners", 2, "--num-envs", 2, "--quiet")
    total = ("--total-steps", 10**9, "--log-every-s", 0.1, "--simulator-workers", 1)
    with started(*flags, *total, "--run-dir", folder):
        wait_for(lambda: training(folder), "training")
        ended = galamp("profile", folder, "-d", 1, "-o", out)
        assert ended.returncode == 0, ended.stderr
    titles = {"learner 0", "learner 1", "simulator 0.0", "simulator 1.0", "supervisor"}
    report = json.loads((out / "report.json").read_text())
    assert {each["title"] for each in report["processes"]} == titles
    assert report["failures"] == {}
    for each in report["processes"]:
        assert each["samples"] > 0
        assert sum(each["phases"].values()) == pytest.approx(1, abs=0.01)
    learners = [each for each in report["processes"] if each["title"].startswith("learner")]
    assert all(each["phases"]["other"] < 0.9 for each in learners), "the phases are found"
    profiles = json.loads((out / "profile.speedscope.json").read_text())["profiles"]
    assert {each["name"].partition(" (")[0] for each in profiles} == titles
    for role in ("learner", "simulator", "supervisor"):
        ET.fromstring((out / f"{role}.svg").read_bytes())
    assert "forkserver" not in (out / "learner.svg").read_text()
    assert "dashboard" in ended.stdout


# The first minute of a run


class Waiting:
    """What `FirstMinute` sees of a supervisor, and of a process that ends when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.events: list[str] = []
        self.words: list[str] = []
        self.code: int | None = None
        self.terminated = self.killed = self.deaf = False
        place = SimpleNamespace(path=folder, where=lambda path: path)
        self.recorder = SimpleNamespace(
            status="starting", folder=place, log_event=lambda text, kind: self.events.append(text)
        )

    def begun(self, words: list[str], **how: Any) -> SimpleNamespace:
        self.words = words
        return SimpleNamespace(
            poll=lambda: self.code,
            wait=self.wait,
            terminate=self.note_terminated,
            kill=self.note_killed,
        )

    def wait(self, timeout: float) -> None:
        if self.deaf and not self.killed:
            raise subprocess.TimeoutExpired("galamp profile", timeout)

    def note_terminated(self) -> None:
        self.terminated = True

    def note_killed(self) -> None:
        self.killed = True


def test_the_first_minute_begins_once_all_are_warm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").mkdir()
    supervisor: Any = Waiting(tmp_path)
    monkeypatch.setattr(first_minute.subprocess, "Popen", supervisor.begun)
    minute = first_minute.FirstMinute(warm_up_s=0.0)
    minute.tick(supervisor)
    assert supervisor.words == [], "not all learners run"
    supervisor.recorder.status = "running"
    for supervisor.code in (None, None, 0, 0):
        minute.tick(supervisor)
    assert supervisor.words[-5:] == ["galamp", "profile", str(tmp_path), "--seconds", "60"]
    begun, written = supervisor.events
    assert "profile of 60 s begun" in begun
    assert "profile written to RUN/profiles" in written
    minute.close()
    assert not supervisor.terminated


def test_a_run_that_ends_before_ends_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor: Any = Waiting(tmp_path)
    supervisor.recorder.status = "running"
    monkeypatch.setattr(first_minute.subprocess, "Popen", supervisor.begun)
    with contextlib.closing(first_minute.FirstMinute(warm_up_s=0.0)) as minute:
        minute.tick(supervisor)
    assert supervisor.terminated
    assert not supervisor.killed


def test_a_profile_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").mkdir()
    supervisor: Any = Waiting(tmp_path)
    supervisor.recorder.status, supervisor.deaf = "running", True
    monkeypatch.setattr(first_minute.subprocess, "Popen", supervisor.begun)
    with contextlib.closing(first_minute.FirstMinute(warm_up_s=0.0)) as minute:
        minute.tick(supervisor)
    assert supervisor.killed


def test_a_run_has_the_callback_only_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "py_spy", lambda: "py-spy")
    for wanted, kinds in ((True, [first_minute.FirstMinute]), (False, [])):
        with _profiling(wanted) as callbacks:
            assert [type(each) for each in callbacks] == kinds
