"""The bench with made-up rows and small stand-ins for what it measures; the slow test is real."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import io
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galamp.core.errors import RunFailed, UserError
from galamp.tools.bench import cli, commands, peers, processes, runs, tables
from galamp.tools.bench.peer_scripts import plain_loop
from galamp.tools.bench.processes import Program, Usage, members, pss_mb
from galamp.tools.bench.runs import Measurement, System, alternation, measure, rate, window
from tests.support.checkout import Checkout
from tests.support.engine import ROOT, also, wait_for

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes

# Trains nothing: its clock runs from 0 to 60 at once, at 100 agent steps per second from 5 on.
# It has a child, writes down both process ids, and does on SIGTERM what it is told to.
STAND_IN = r"""
import json, os, pathlib, signal, subprocess, sys, time
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def leave(*_):
    if sys.argv[1] != "leave-child":
        child.kill()
        child.wait()
    sys.exit(143)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "ignore" else leave)
folder = pathlib.Path(options["--run-dir"])
if sys.argv[1] == "fail":
    print("no such thing")
    child.kill()
    sys.exit(3)
with (folder / "metrics.jsonl").open("w") as rows:
    print(json.dumps({"global_step": 0, "resumed_from": 0}), file=rows)
    for now in range(0 if sys.argv[1] == "idle" else 61):
        steps = 100 * max(0, now - 5)
        row = {"global_step": steps, "emulator_frames": 4 * steps, "wall_s": float(now)}
        print(json.dumps(row), file=rows)
if "--pids" in options:
    part = pathlib.Path(options["--pids"] + ".part")
    part.write_text(f"{os.getpid()} {child.pid} {options['--seed']} {folder}")
    part.rename(options["--pids"])
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Give torch back as it was."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def stand_in(pids: Path | None = None, on_stop: str = "end") -> System:
    more = ("--pids", str(pids)) if pids else ()
    return System("stand-in", (sys.executable, "-c", STAND_IN, on_stop, *more))


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def row(wall_s: float, steps: int) -> dict[str, Any]:
    return {"wall_s": wall_s, "global_step": steps, "emulator_frames": 4 * steps}


def made(system: str, number: int, speed: float, **changes: Any) -> Measurement:
    usual = Measurement(system, number, speed, 4 * speed, 30.0, 500.0, 6, 0.9, 0.0)
    return replace(usual, **changes)


# Rows to rates


def test_window_and_rate() -> None:
    # Nothing until 3 s; slow until 11 s; then 1,000 agent steps/s; slow again at the very end.
    rows = [row(1, 0), row(3, 10), row(5, 20), row(7, 30), row(9, 40), row(11, 50)]
    rows += [row(13 + 2 * i, 2050 + 2000 * i) for i in range(5)]
    rows.append(row(23, 10_051))
    found = window(rows, 8.0, 10.0)
    assert found.first == row(11, 50)
    assert found.middle == row(17, 6050)
    assert found.last == row(21, 10_050)
    assert rate(found.first, found.last) == (1000.0, 4000.0, 10.0)


@pytest.mark.parametrize(
    ("rows", "known"),
    [
        ([], (False, False, False)),
        ([row(100, 0), row(200, 0)], (False, False, False)),
        ([row(1, 5), row(8.9, 80)], (False, False, False)),
        ([row(1, 5), row(9, 80)], (True, False, False)),
        ([row(1, 5), row(9, 80), row(14, 90)], (True, True, False)),
        ([row(1, 5), row(9, 80), row(18.9, 90)], (True, True, False)),
        ([row(1, 5), row(9, 80), row(19, 90)], (True, True, True)),
    ],
)
def test_window_waits(rows: list[dict[str, Any]], known: tuple[bool, ...]) -> None:
    assert tuple(each is not None for each in window(rows, 8.0, 10.0)) == known


def test_rows_being_written(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert runs.read_rows(file) == []
    whole = json.dumps(row(1, 2) | {f"learner{rank}/SPS": 1.5 for rank in range(64)})
    file.write_text(f'{{"global_step": 0, "resumed_from": 0}}\n{whole}\n{whole[:-9]}')
    assert runs.read_rows(file) == [row(1, 2)]


def test_alternation() -> None:
    systems = [System(name, ()) for name in "ABC"]
    order = [(number, system.name) for number, system in alternation(systems, 2)]
    assert order == [(1, "A"), (1, "B"), (1, "C"), (2, "A"), (2, "B"), (2, "C")]


# Processes


def test_measure(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    one = measure(stand_in(pids), 7, seconds=20.0, warm_up_s=8.0)
    assert (one.system, one.round, one.seconds) == ("stand-in", 7, 20.0)
    assert (one.agent_steps_per_s, one.emulator_frames_per_s) == (100.0, 400.0)
    assert one.processes == 2
    assert 5 < one.pss_mb < 100
    assert 0 <= one.cpu_share <= 1.5
    parent, child, seed, folder = pids.read_text().split()
    assert seed == "7"
    assert not alive(int(parent))
    assert not alive(int(child))
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("on_stop", "complaint"),
    [
        ("ignore", "stand-in: did not end within 0 s"),
        ("leave-child", "stand-in: left 1 processes behind"),
    ],
)
def test_what_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_stop: str, complaint: str
) -> None:
    if on_stop == "ignore":
        monkeypatch.setattr(processes, "STOP_GRACE_S", 0.2)
    else:
        monkeypatch.setattr(processes, "KILL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(processes, "ABORT_GRACE_S", 0.2)
    pids = tmp_path / "pids"
    with pytest.raises(RunFailed, match=complaint):
        measure(stand_in(pids, on_stop), 1, seconds=20.0, warm_up_s=8.0)
    assert not any(alive(int(pid)) for pid in pids.read_text().split()[:2])


def test_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailed, match="stand-in: ended with code 3: no such thing"):
        measure(stand_in(on_stop="fail"), 1, seconds=20.0, warm_up_s=8.0)
    monkeypatch.setattr(runs, "START_DEADLINE_S", 0.1)
    with pytest.raises(RunFailed, match="stand-in: was not measured in time"):
        measure(stand_in(on_stop="idle"), 1, seconds=0.1, warm_up_s=0.1)


MEASURE = f"""
import sys
from pathlib import Path
from galamp.tools.bench import cli, commands
from galamp.tools.bench.runs import System
command = (sys.executable, "-c", {STAND_IN!r}, "end", "--pids", sys.argv[1])
commands.galamp_system = lambda workload: System("stand-in", command)
sys.exit(cli.main(["run", "--seconds", "1000", "--repeats", "1"]))
"""


@pytest.mark.real
@pytest.mark.parametrize(
    ("number", "code"),
    [also(signal.SIGINT, 130), (signal.SIGTERM, 143), also(signal.SIGKILL, -signal.SIGKILL)],
)
def test_signals_end_children(tmp_path: Path, number: signal.Signals, code: int) -> None:
    pids = tmp_path / "pids"
    bench = subprocess.Popen(
        [sys.executable, "-c", MEASURE, pids],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(pids.exists, "the stand-in's start")
        below = [int(pid) for pid in pids.read_text().split()[:2]]
        assert all(map(alive, below))
        bench.send_signal(number)
        _, said = bench.communicate(timeout=60)
    finally:
        bench.kill()
        bench.wait()
    assert bench.returncode == code
    assert "Traceback" not in said
    wait_for(lambda: not any(map(alive, below)), "the end of the children")
    if number != signal.SIGKILL:
        assert list(tmp_path.glob("galamp-bench-*")) == []


def test_thread_counts_are_the_programs_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    log = tmp_path / "log"
    with Program(["sh", "-c", "echo threads=$OMP_NUM_THREADS."], tmp_path, log) as program:
        assert program.wait(60) == 0
    assert program.last_line() == "threads=."


def test_galamps_own_words_say_why_it_ended(tmp_path: Path) -> None:
    """They are followed by the traceback of a child, of which CUDA's last line tells nothing."""
    lines = ["galamp: starting", "galamp: learner 1 raised RuntimeError: CUDA error", "Traceback"]
    lines += ["Compile with TORCH_USE_CUDA_DSA", "galamp: warning: PYTHONPATH", "  ", ""]
    command = [sys.executable, "-c", f"print({chr(10).join(lines)!r})"]
    with Program(command, tmp_path, tmp_path / "log") as program:
        assert program.wait(60) == 0
    assert program.complaint() == "galamp: learner 1 raised RuntimeError: CUDA error"
    assert program.last_line() == "galamp: warning: PYTHONPATH"
    with Program(["echo", "no such thing"], tmp_path, tmp_path / "other") as program:
        assert program.wait(60) == 0
    assert program.complaint() == "no such thing"


def test_what_a_former_program_has_written_into_the_log_says_nothing_of_the_next(
    tmp_path: Path,
) -> None:
    said = []
    for script in ('echo "galamp: old"; printf more; exit 1', "kill -9 $$", "printf '9 %%\\rnew'"):
        with Program(["sh", "-c", script], tmp_path, tmp_path / "log") as program:
            program.wait(60)
        said.append(program.complaint())
    assert said == ["galamp: old", "it wrote nothing", "new"]


TITLED = """
import os, time
from setproctitle import setproctitle
child = os.fork()
setproctitle("galamp: learner 1" if child else "galamp: learner 11")
time.sleep(600)
"""


def test_processes_are_found_by_their_titles(tmp_path: Path) -> None:
    with Program([sys.executable, "-c", TITLED], tmp_path, tmp_path / "log") as program:

        def found(rank: int) -> list[int]:
            return processes.titled(program.session, f"galamp: learner {rank}")

        wait_for(lambda: found(1) and found(11), "the titles")
        assert found(1) == [program.session]
        assert sorted(found(1) + found(11)) == sorted(members(program.session))
        assert found(2) == []


def test_memory_counts_shared_pages_once() -> None:
    size = 64 * 2**20
    before = pss_mb([os.getpid()])
    assert 10 < before < 10_000
    with mmap.mmap(-1, size) as shared:
        shared.write(b"x" * size)
        assert pss_mb([os.getpid()]) - before == pytest.approx(size / 1e6, rel=0.2)
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            shared.seek(0)  # reading maps the pages into the child as well
            os.write(tell, bytes([len(shared.read(size)) == size]))
            signal.pause()
            os._exit(0)
        try:
            assert os.read(ready, 1) == b"\1"
            alone, both = pss_mb([os.getpid()]), pss_mb([os.getpid(), child])
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(ready)
            os.close(tell)
    assert alone - before < 0.6 * size / 1e6
    # Counted twice it would be 2; a child of a large process also writes to pages of its own.
    assert 0.8 < (both - before) / (size / 1e6) < 1.7


def busy_s() -> float:
    """Return the processor time that the machine has spent on anything since it started."""
    ticks = [int(t) for t in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


BURN = """
import pathlib, sys, time
print("ready", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
until_s = time.process_time() + 0.5
while time.process_time() < until_s:
    pass
print("burnt", flush=True)
time.sleep(600)
"""


def test_usage_counts_a_session(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BURN, tmp_path / "go"]
    with Program(command, tmp_path, tmp_path / "log") as program:
        wait_for(lambda: program.last_line() == "ready", "the start")
        before = Usage.of(program.session)
        (tmp_path / "go").touch()
        wait_for(lambda: program.last_line() == "burnt", "the burning")
        after = Usage.of(program.session)
        assert members(program.session) == [program.session]
    spent_s = after.session_s - before.session_s
    assert 0.4 < spent_s < 1.5
    low_s = busy_s()
    now = Usage.of(os.getsid(0))
    rounding_s = 1e-6
    assert low_s - rounding_s <= now.session_s + now.others_s <= busy_s() + rounding_s
    assert now.session_s > 0
    share, others = after.shares_since(before, 1)
    assert share == pytest.approx(spent_s / (after.at_s - before.at_s))
    assert others >= 0
    assert replace(after, others_s=before.others_s - 1).shares_since(before, 1)[1] == 0


# Tables


def test_ratios_are_per_round() -> None:
    # The machine slowed down in round 2, for both alike; the third has no peer.
    every = [made("galamp", 1, 1000), made("peer", 1, 500), made("galamp", 2, 100)]
    every += [made("peer", 2, 40), made("galamp", 3, 9)]
    assert tables.ratios(every, "galamp", "peer") == [2.0, 2.5]
    assert tables.ratios(every, "galamp", "galamp") == []
    assert tables.ratios(every, "galamp", "unknown") == []


ORIGIN = tables.Origin(
    "abc123-dirty",
    {"cpu": "A [fast] processor", "cores": 2, "python": "3.11.7", "torch": "2.13.0"},
    "bin/bench peers --game Pong",
)


def shown(every: list[Measurement]) -> list[str]:
    text = io.StringIO()
    tables.show(every, "galamp", "Pong, 16 environments", ORIGIN, text)
    return [" ".join(line.split()) for line in text.getvalue().splitlines() if line.strip()]


def test_table() -> None:
    every = [made("galamp", 1, 2000), made("peer", 1, 1000), made("galamp", 2, 1500)]
    every += [made("peer", 2, 500, pss_mb=2500.0), made("galamp", 3, 1800), made("peer", 3, 720)]
    lines = shown(every)
    assert lines[0] == "Pong, 16 environments"
    assert "system agent steps/s min - max galamp / system memory MB CPU" in lines
    assert "galamp 1,800 1,500 - 2,000 - 500 90 %" in lines
    assert "peer 720 500 - 1,000 2.50 (2.00 - 3.00) 500 90 %" in lines
    assert "commit abc123-dirty" in lines
    assert "machine A [fast] processor, 2 cores, Python 3.11.7, torch 2.13.0" in lines
    assert "command bin/bench peers --game Pong" in lines
    assert not any("NOT QUIET" in line for line in lines)


def test_table_of_one_system() -> None:
    lines = shown([made("galamp", 1, 2000, other_cpu_share=0.25)])
    assert "system agent steps/s min - max memory MB CPU" in lines
    assert "galamp 2,000 2,000 - 2,000 500 90 %" in lines
    assert not any("atio" in line for line in lines)
    assert any("up to 25 % of the cores" in line for line in lines)


# The command line


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "COMMAND"),
        ("sprint", "sprint"),
        ("run --seconds 0", "--seconds: '0': expected seconds, more than 0"),
        ("run --seconds nan", "'nan': expected seconds"),
        ("run --learners 1.5", "--learners: '1.5': expected a whole number of at least 1"),
        ("run --num-envs 0", "'0': expected a whole number"),
        ("run --network mlp", "mlp"),
        ("run --repeat", "--repeat"),
        ("run --game Brekout", "did you mean Breakout"),
        ("run --game CartPole-v1", "expected an Atari game"),
        ("run --json /no/such/folder/rows", "cannot be written"),
        ("peers --peer stable-baseline", "did you mean stable-baselines3"),
        ("peers --network gala", "stable-baselines3 trains nature only"),
        ("peers --peer sample-factory --network gala", "sample-factory trains nature only"),
    ],
)
def test_wrong_options(words: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = cli.main(words.split())
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    assert code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("galamp: ")
    assert complaint in said.err
    assert said.out == ""


def test_run_and_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "galamp_system", lambda workload: stand_in())
    file = tmp_path / "rows with space"
    file.write_text("before\n")
    words = ["run", "--game", "pong", "--seconds", "20", "--repeats", "2", "--json", str(file)]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"galamp: bench: round {number} of 2: stand-in ... 100 agent steps/s" for number in (1, 2)
    ]
    assert f"bin/bench run --game pong --seconds 20 --repeats 2 --json '{file}'" in said.out
    kept, *lines = file.read_text().splitlines()
    assert kept == "before"
    rows = [json.loads(line) for line in lines]
    assert [r["round"] for r in rows] == [1, 2]
    assert rows[0]["agent_steps_per_s"] == 100
    assert rows[0]["machine"]["cores"] == runs.cores()
    assert rows[0]["what"].startswith(
        "ALE/Pong-v5, a2c, network nature, float32, 32 environments in all"
    )
    assert re.fullmatch("unknown|[0-9a-f]{10,}(-dirty)?", rows[0]["commit"])


def test_a_pipeline_takes_turns_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[runs.System] = []
    monkeypatch.setattr(commands, "compare", lambda systems, *_, subject: found.extend(systems))
    assert cli.main(["pipeline", "--game", "pong", "--learners", "1"]) == 0
    overlapping, plain = (list(system.command) for system in found)
    assert "--pipeline" not in plain
    assert [word for word in overlapping if word != "--pipeline"] == plain
    assert "--env-id ALE/Pong-v5 --learners 1 --num-envs 16" in " ".join(plain)
    assert "--algorithm vtrace --device cpu" in " ".join(plain)


def test_bin_bench_sets_itself_up(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    ended = checkout.start("run", "--seconds", "5", command="bench")
    assert ended.returncode == 0, ended.stderr
    assert (
        checkout.calls_file.read_text().splitlines()[-1]
        == "-P -m galamp.tools.bench run --seconds 5"
    )


def test_commands_of_systems() -> None:
    workload = runs.Workload("ALE/SpaceInvaders-v5", "space_invaders", 3, 4, "gala")
    ours = " ".join(runs.galamp_system(workload).command)
    assert "--env-id ALE/SpaceInvaders-v5 --learners 3 --num-envs 4 --network gala" in ours
    peer = peers.PEERS["a2c"]["plain-loop"]
    theirs = " ".join(peers.peer_system(peer, workload, Path("python")).command)
    what = "--game space_invaders --num-envs 12 --network gala"
    assert theirs.endswith(f"plain_loop.py {what} --precision float32")
    bf16 = dataclasses.replace(workload, precision="bf16")
    assert "--precision bf16" in " ".join(runs.galamp_system(bf16).command)
    assert peers.peer_system(peer, bf16, Path("python")).command[-2:] == ("--precision", "bf16")
    other = peers.PEERS["a2c"]["stable-baselines3"]
    assert "--precision" not in peers.peer_system(other, bf16, Path("python")).command


# Peers' environments


NEEDY = peers.Peer("needy", "x.py", ("nature",), ("torch", "needy==1 more"))


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for venv and pip; the steps that were taken."""
    taken: list[str] = []

    def step(peer: peers.Peer, what: str, command: list[object], say: peers.Say) -> None:
        taken.append(what)
        if what == "create environment":
            Path(str(command[-1])).mkdir()
        if "FAIL" in os.environ:
            raise RunFailed(what)

    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path / "peers")
    monkeypatch.setattr(peers, "_step", step)
    return taken


def test_environment_is_made_once(steps: list[str], tmp_path: Path) -> None:
    whole = ["create environment", "install torch", "install needy==1"]
    for _ in range(2):
        python = peers.prepare(NEEDY, commands.say)
        assert python == tmp_path / "peers" / "needy" / "bin" / "python"
        assert steps == whole
    peers.prepare(replace(NEEDY, requirements=("torch", "needy==2")), commands.say)
    assert steps == [*whole, "create environment", "install torch", "install needy==2"]
    assert peers.prepare(peers.PEERS["a2c"]["plain-loop"], commands.say) == Path(sys.executable)
    assert len(steps) == 6


def test_exceptions_are_installed_last_and_unconstrained(
    steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[str]] = []
    stand_in = peers._step

    def step(peer: peers.Peer, what: str, command: list[object], say: peers.Say) -> None:
        taken.append([str(word) for word in command])
        stand_in(peer, what, command, say)

    monkeypatch.setattr(peers, "_step", step)
    stubborn = replace(NEEDY, exceptions=("numpy==0",))
    peers.prepare(stubborn, commands.say)
    assert steps[2:] == ["install needy==1", "install numpy==0"]
    assert taken[-2][-4:] == ["-c", str(peers.CONSTRAINTS), "needy==1", "more"]
    assert taken[-1][-2:] == ["install", "numpy==0"]
    peers.prepare(stubborn, commands.say)
    assert len(taken) == 4
    peers.prepare(NEEDY, commands.say)  # without the exception it is another environment
    assert len(taken) == 7


def test_environment_heals(steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(RunFailed):
        peers.prepare(NEEDY, commands.say)
    monkeypatch.delenv("FAIL")
    peers.prepare(
        NEEDY, commands.say
    )  # making the folder again would fail if the old one were there
    assert steps == ["create environment"] * 2 + ["install torch", "install needy==1"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_environment_needs_no_locks(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    refused = pytest.raises(OSError, match="Input/output")
    with refused if code == errno.EIO else contextlib.nullcontext():
        peers.prepare(NEEDY, commands.say)
    assert bool(steps) == (code != errno.EIO)


def test_environment_is_made_by_one(steps: list[str]) -> None:
    with peers._locked("needy"), pytest.raises(UserError, match="another bench"):
        peers.prepare(NEEDY, commands.say)
    assert steps == []


def test_failing_step_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    command = ["sh", "-c", "echo no network; exit 3"]
    with pytest.raises(RunFailed, match=r"needy: could not install it: no network \(code 3\)"):
        peers._step(NEEDY, "install it", command, commands.say)
    said = capsys.readouterr().err
    assert re.fullmatch(r"galamp: bench: needy: install it ... failed after \d+\.\d s\n", said)


# The plain loop


def test_plain_returns() -> None:
    generator = np.random.default_rng(0)
    shape = steps, envs = 5, 40
    rewards, values = generator.normal(size=shape), generator.normal(size=(steps + 1, envs))
    terminated, truncated = generator.random(shape) < 0.2, generator.random(shape) < 0.2
    expected = np.zeros(shape)
    for env_index in range(envs):
        for t in range(steps):
            discount = 1.0
            for k in range(t, steps):
                expected[t, env_index] += discount * rewards[k, env_index]
                discount *= plain_loop.GAMMA
                if terminated[k, env_index]:
                    break
                if truncated[k, env_index] or k == steps - 1:
                    expected[t, env_index] += discount * values[k + 1, env_index]
                    break
    given = (rewards, terminated, truncated, values[:-1], values[-1])
    returns = plain_loop.returns_of(*map(torch.from_numpy, given))
    np.testing.assert_allclose(returns.numpy(), expected, rtol=1e-6)


def test_plain_loss_ignores_invalid() -> None:
    log_probs, values, entropies, returns = torch.randn(4, 5, 3).unbind()
    values.requires_grad_()
    log_probs.requires_grad_()
    valid = torch.rand(5, 3) < 0.6
    valid[0, 0], valid[0, 1] = True, False
    loss = plain_loop.loss_of(log_probs, values, entropies, returns, valid)
    gap = (returns - values).detach()[valid]
    expected = (
        -(gap * log_probs.detach()[valid]).mean()
        + 0.5 * gap.square().mean()
        - 0.01 * entropies[valid].mean()
    )
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert log_probs.grad is not None
    torch.testing.assert_close(values.grad[valid], -gap / valid.sum())
    torch.testing.assert_close(log_probs.grad[valid], -gap / valid.sum())
    assert not values.grad[~valid].any()
    assert not log_probs.grad[~valid].any()


def test_plain_loop_plays_and_learns() -> None:
    loop = plain_loop.Loop("breakout", 2, "gala", seed=3, threads=1)
    generator = torch.Generator().manual_seed(0)
    told = [loop.step(torch.randint(0, 4, (2,), generator=generator)) for _ in range(500)]
    rewards, terminated, truncated, valid = (torch.stack(e) for e in zip(*told, strict=True))
    resets = ~valid
    assert resets.any(0).all()
    assert terminated[:-1][resets[1:]].all()  # a game ended on the step before
    assert not rewards[resets].any()
    assert not terminated[resets].any()
    assert not truncated.any()
    assert rewards.max() == 1
    # Five lives a game: of the steps that end the return, one in five is followed by a reset.
    last = 499 - int(resets.flip(0).int().argmax(0).max())
    assert terminated[:last].sum() >= 4 * resets[: last + 1].sum()
    before = [p.detach().clone() for p in loop.network.parameters()]
    assert np.isfinite(loop.update())
    assert all((a != b).any() for a, b in zip(before, loop.network.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_real_measurement(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    words = "peers --peer plain-loop --learners 1 --num-envs 4 --repeats 1 --seconds 5 --warm-up 2"
    began_s = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "galamp.tools.bench", *words.split(), "--json", rows],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [one["system"] for one in found] == ["galamp", "plain-loop"]
    for one in found:
        assert 5 <= one["seconds"] < time.monotonic() - began_s
        assert one["agent_steps_per_s"] > 0
        assert one["emulator_frames_per_s"] == pytest.approx(4 * one["agent_steps_per_s"])
        assert 50 < one["pss_mb"] < 10_000
    assert found[0]["processes"] >= 3
    assert found[1]["processes"] == 1
    assert "galamp / system" in ended.stdout
    left = {path.name for path in tmp_path.iterdir()}
    # The plain loop's optimiser, torch's own, makes a folder for a compiler that it does not use.
    assert {name for name in left if not name.startswith("torchinductor_")} == {"rows.jsonl"}
