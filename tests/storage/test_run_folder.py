from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galamp.core.disk import replace_file, temporary_name
from galamp.core.errors import GalampError, UserError
from galamp.storage import monitor_log, run_logs
from galamp.storage.monitor_log import MonitorLog
from galamp.storage.run_folder import RunFolder
from galamp.storage.run_logs import AppendOnly, MetricsLog, curve, last_start_in, read_metrics

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 1, 2, 12, 0, 5)
RETURN = "charts/episodic_return"


@pytest.fixture
def told() -> list[str]:
    return []


def create(root: Path, run_dir: str | Path = "", env_id: str = "ALE/Breakout-v5") -> RunFolder:
    return RunFolder.create(root, str(run_dir), env_id, "ring", 3, NOON)


def test_default_name_and_link(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first, second = create(runs), create(runs)
    assert first.path == runs / "Breakout-v5__ring__s3__20260102-120005"
    assert second.path.name == first.path.name + "-2"
    for run in (first, second):
        run.write_config({})
        assert os.readlink(runs / "latest") == run.path.name
    assert first.path.stat().st_mode & 0o777 == 0o700
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("env_id", "part"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("pkg.mod:make env", "pkg.mod-make-env"),
        ("a/../..", "run"),
        ("\x1b[2J", "2J"),
    ],
)
def test_names_are_fit_for_files(tmp_path: Path, env_id: str, part: str) -> None:
    run = create(tmp_path, env_id=env_id)
    assert run.path.parent == tmp_path
    assert run.path.name.split("__")[0] == part
    assert run.log_path("learner 0") == run.logs / "learner-0.log"
    assert run.log_path("../../x").parent == run.logs
    run.close()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes").write_text("x")
    with pytest.raises(UserError, match=r"mine: not empty; choose another --run-dir"):
        create(tmp_path, target)
    assert os.listdir(target) == ["notes"]
    (target / "notes").unlink()
    run = create(tmp_path, target)
    run.write_config({"seed": 1})
    run.close()
    with pytest.raises(UserError, match=r"mine: not empty; .*--resume .*another --run-dir"):
        create(tmp_path, target)
    with pytest.raises(UserError, match="cannot make the run folder: "):
        create(tmp_path, target / "config.json")


def test_a_folder_elsewhere_leaves_latest_alone(tmp_path: Path) -> None:
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    for run_dir in (tmp_path / "elsewhere", ""):
        run = create(tmp_path / "runs", run_dir)
        run.write_config({})
        run.close()
    assert not (tmp_path / "latest").is_symlink()
    assert (tmp_path / "runs" / "latest").is_dir()


def test_resume_needs_a_run_folder_and_reads_its_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        RunFolder.open(tmp_path)
    run = create(tmp_path)
    run.write_config({"seed": 4, "x": float("inf"), "y": np.float32(0.5), "z": (1, 2)})
    run.close()
    run.close()
    other = create(tmp_path)
    again = RunFolder.open(run.path, tmp_path)
    assert again.read_config() == {"seed": 4, "x": None, "y": 0.5, "z": [1, 2]}
    again.write_config({})
    assert os.readlink(tmp_path / "latest") == run.path.name
    for damage in (b"", b"{", b"[]", b"\xff"):
        (again.path / "config.json").write_bytes(damage)
        with pytest.raises(UserError, match=r"config\.json: damaged"):
            again.read_config()
    with pytest.raises(UserError, match=r"cannot read .*config\.json: No such file"):
        other.read_config()
    again.close()
    other.close()


@pytest.mark.parametrize("existed", [True, False])
def test_what_never_began_leaves_nothing(tmp_path: Path, told: list[str], *, existed: bool) -> None:
    before = create(tmp_path)
    before.write_config({})
    before.close()
    target = tmp_path / "mine"
    if existed:
        target.mkdir()
    for run_dir in (target, ""):
        run = create(tmp_path, run_dir)
        MetricsLog(run.metrics, 1, 0, told.append)
        run.close()
    assert os.readlink(tmp_path / "latest") == before.path.name
    left = {before.path, tmp_path / "latest"} | ({target} if existed else set())
    assert set(tmp_path.iterdir()) == left
    assert not existed or list(target.iterdir()) == []
    create(tmp_path, target).close()


def test_a_home_that_nobody_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="~nosuchuser/x: there is no user of that name"):
        create(tmp_path, "~nosuchuser/x")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_taken_back_is_none(tmp_path: Path) -> None:
    """Opened just before its owner, who never began, removed it."""
    flock = fcntl.flock

    def late(lock: int, how: int) -> None:
        (tmp_path / "mine" / "lock").unlink()
        flock(lock, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with pytest.raises(UserError, match="another start was just refused; try again"):
            create(tmp_path, tmp_path / "mine")
    create(tmp_path, tmp_path / "mine").close()


def test_a_second_user_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    run = create(tmp_path, tmp_path / "mine")
    run.write_config({})
    here = f"process {os.getpid()} on {platform.node()} since 2026-01-02 12:00:05"
    words = f"mine: in use by {here}; stop that first"
    for _ in range(2):
        with pytest.raises(UserError, match=words):
            RunFolder.open(run.path)
        with pytest.raises(UserError, match=words):
            create(tmp_path, run.path)
    run.close()
    RunFolder.open(run.path).close()


STARTER = """
import sys
from datetime import datetime
from pathlib import Path
from galamp.core.errors import UserError
from galamp.storage.run_folder import RunFolder
assert "torch" not in sys.modules
print("ready", flush=True)
sys.stdin.readline()
try:
    run = RunFolder.create(None, sys.argv[1], "E", "n", 1, datetime.now())
    run.write_config({})
    print("won", flush=True)
except UserError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


def test_of_many_starts_one_wins_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    env = os.environ | {"PYTHONPATH": str(ROOT), "SECRET_OF_MINE": "hunter2hunter2"}
    command = [sys.executable, "-c", STARTER, str(target)]
    starts = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(6)
    ]
    answers: dict[int, str] = {}
    try:
        for start in starts:
            assert start.stdout is not None
            assert start.stdout.readline() == "ready\n"
        for start in starts:
            assert start.stdin is not None
            start.stdin.write("go\n")
            start.stdin.flush()
        for start in starts:
            assert start.stdout is not None
            answers[start.pid] = start.stdout.readline().strip()
    finally:
        for start in starts:
            start.kill()
            start.communicate()
    winners = [pid for pid, answer in answers.items() if answer == "won"]
    assert len(winners) == 1
    for pid, answer in answers.items():
        assert (
            pid in winners or f"in use by process {winners[0]} on {platform.node()} since" in answer
        )
    assert all(start.returncode == -signal.SIGKILL for start in starts)
    run = RunFolder.open(target)
    run.close()
    for file in target.rglob("*"):
        assert file.is_dir() or "hunter2" not in file.read_text()


def test_summary_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create(tmp_path)
    run.write_summary({"agent_steps": 5, "best": float("nan")})
    assert run.read_summary() == {"agent_steps": 5, "best": None}
    run.write_summary({"agent_steps": 6})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(GalampError, match=r"summary\.json not written: No space left"):
            run.write_summary({"agent_steps": 7})
        with pytest.raises(UserError, match="No space left"):
            run.write_config({})
    assert run.read_summary() == {"agent_steps": 6}
    assert not [name for name in os.listdir(run.path) if ".tmp" in name]
    run.close()


def full(file: int, data: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def row(step: int, score: float | None) -> dict[str, Any]:
    return {"global_step": step, RETURN: score}


def test_metrics_are_one_write_per_row(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    written: list[bytes] = []
    write = os.write

    def watched(file: int, data: bytes) -> int:
        written.append(data)
        return write(file, data)

    monkeypatch.setattr(os, "write", watched)
    log = MetricsLog(path, 1, 0, told.append)
    log.append({"global_step": 10, "a": float("nan"), "b": [np.float32("inf"), np.int64(3)]})
    assert written == path.read_bytes().splitlines(keepends=True)
    assert list(read_metrics(path)) == [
        {"global_step": 0, "resumed_from": 0, "start": 1},
        {"global_step": 10, "a": None, "b": [None, 3], "start": 1},
    ]
    assert not told


def test_a_partial_last_line_is_ignored_then_cut_off(tmp_path: Path, told: list[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(read_metrics(path)) == []
    MetricsLog(path, 1, 0, told.append).append(row(10, 1.0))
    whole = path.read_bytes()
    for tail in (b'{"global_step": 20', b'{"global_step": 20}', b"\xff", b"\0" * 5000):
        path.write_bytes(whole + tail)
        assert [r["global_step"] for r in read_metrics(path)] == [0, 10]
        assert last_start_in(path) == 1
        log = MetricsLog(path, 2, 10, told.append)
        log.append(row(30, 2.0))
        assert path.read_bytes().startswith(whole + b"{")
        assert curve(path).points == [(10, 1.0), (30, 2.0)]


@pytest.mark.parametrize(
    ("whole", "rest"),
    [
        (b"one\ntwo\n", 5),
        (b"one\ntwo\n", run_logs.TAIL_BYTES),
        (b"one\ntwo\n", 3 * run_logs.TAIL_BYTES),
        (b"one\n" * 300_000, 2 * run_logs.TAIL_BYTES - 1),
        (b"\n", run_logs.TAIL_BYTES),
        (b"", 2 * run_logs.TAIL_BYTES + 7),
    ],
)
def test_an_unfinished_line_of_any_length_is_cut_off(
    tmp_path: Path, told: list[str], whole: bytes, rest: int
) -> None:
    """The first line of a start of hundreds of learners takes megabytes in gossip.jsonl."""
    path = tmp_path / "gossip.jsonl"
    path.write_bytes(whole + b"x" * rest)
    assert AppendOnly(path, told.append).append(b"next\n")
    assert path.read_bytes() == whole + b"next\n"


def test_two_writers_of_one_file_each_write_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace, others = tmp_path / "x.json", Path.replace, [b"second"]

    def late(self: Path, target: Path) -> Path:
        if others:
            replace_file(path, others.pop())
            assert path.read_bytes() == b"second"
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", late)
    replace_file(path, b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x.json"]


def test_what_a_killed_start_left_half_written_is_removed(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.write_config({})
    dead = subprocess.Popen(["true"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: dead.pid)
        for folder in (run.path, tmp_path):
            with temporary_name(folder) as path:
                left = path.name
            (folder / left).write_text("{")
    dead.wait()
    run.close()
    again = RunFolder.open(run.path, tmp_path)
    again.write_config({})
    again.close()
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


def test_later_starts_supersede_what_lies_beyond_their_checkpoint(
    tmp_path: Path, told: list[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, 1, 0, told.append)
    for step in (10, 20, 30, 40, 50):
        first.append(row(step, step / 10))
    second = MetricsLog(path, 2, 20, told.append)
    for step in (35, 45):
        second.append(row(step, step / 100))
    third = MetricsLog(path, 3, 40, told.append)
    third.append(row(60, None))
    third.append(row(70, 7.0))
    assert [r["start"] for r in read_metrics(path)] == [1] * 6 + [2] * 3 + [3] * 3
    # 30 lies beyond the checkpoint at 20 although the second start's first score is at 35.
    assert curve(path).points == [(10, 1.0), (20, 2.0), (35, 0.35), (70, 7.0)]
    assert len(list(read_metrics(path))) == 12


def test_a_lost_first_row_of_a_start_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [row(10, 1.0) | {"start": 1}, row(30, 3.0) | {"start": 1}, row(20, 2.0) | {"start": 2}]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"global_step": "x"}]))
    assert curve(path).points == [(10, 1.0), (20, 2.0)]


def test_a_full_disk_is_told_once_and_never_raised(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 1, 0, told.append)
    before = path.read_bytes()
    write = os.write
    for broken in (full, lambda file, data: write(file, data[: len(data) // 2])):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", broken)
            log.append(row(10, 1.0))
            log.append(row(20, 2.0))
        assert path.read_bytes() == before
    assert log.failed == 4
    assert len(told) == 1
    assert "metrics.jsonl: No space left on device" in told[0]
    log.append(row(30, 3.0))
    assert curve(path).points == [(30, 3.0)]


def test_a_folder_that_vanished_is_told_not_raised(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "file").write_text("")
    log = AppendOnly(tmp_path / "file" / "x", told.append)
    assert not log.append(b"row\n")
    assert len(told) == log.failed == 1


def read_monitor(path: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Read as Stable-Baselines3's `load_results` does: a `#` line of JSON, then plain CSV."""
    with open(path) as file:
        first = file.readline()
        assert first[0] == "#"
        return json.loads(first[1:]), list(csv.DictReader(file))


def test_monitor_files_are_in_stable_baselines3_form(tmp_path: Path, told: list[str]) -> None:
    run = create(tmp_path)
    path = run.monitor_path(7)
    assert path == run.path / "monitor" / "7.monitor.csv"
    log = MonitorLog(path, 'ALE/"x"', 1000.5, told.append)
    log.append(-21.0, 764, 1003.0)
    assert not path.exists()
    log.flush()
    log.append(np.float32(1.5), 10, 1004.1234567)  # type: ignore[arg-type]
    log.flush()
    log.flush()
    assert path.read_text().splitlines()[1:] == ["r,l,t", "-21,764,2.5", "1.5,10,3.623457"]
    resumed = MonitorLog(path, 'ALE/"x"', 5000.0, told.append)
    resumed.append(3, 5, 5001.0)
    resumed.flush()
    header, rows = read_monitor(path)
    assert header == {"t_start": 1000.5, "env_id": 'ALE/"x"'}
    assert rows[-1] == {"r": "3", "l": "5", "t": "4000.5"}
    assert len(rows) == 3
    assert not told
    run.close()


@pytest.mark.parametrize(
    "damage", [b"", b"#", b"#{}\nr,l,t\n", b'#{"t_start": 1', b"r,l,t\n1,2,3\n"]
)
def test_a_monitor_file_without_header_is_put_aside(
    tmp_path: Path, told: list[str], damage: bytes
) -> None:
    path = tmp_path / "0.monitor.csv"
    path.write_bytes(damage)
    log = MonitorLog(path, "E", 1.0, told.append)
    log.append(1.0, 2, 3.0)
    log.flush()
    assert read_monitor(path)[1] == [{"r": "1", "l": "2", "t": "2.0"}]
    assert (tmp_path / "0.monitor.csv.damaged").read_bytes() == damage


def test_a_monitor_file_that_cannot_be_read_now_stays(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "0.monitor.csv"
    log = MonitorLog(path, "E", 1.0, told.append)
    log.flush()
    with monkeypatch.context() as patch:
        patch.setattr(monitor_log, "open_plain", refuse)
        again = MonitorLog(path, "E", 9.0, told.append)
        again.append(1.0, 2, 3.0)
        again.flush()
    assert (again.failed, len(told)) == (1, 1)
    again.append(4.0, 5, 6.0)
    again.flush()
    assert read_monitor(path)[1] == [{"r": "4", "l": "5", "t": "5.0"}]
    assert os.listdir(tmp_path) == [path.name]


def refuse(path: Path) -> None:
    raise OSError(errno.EMFILE, "Too many open files", str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_monitor_file_at_all_is_put_aside(
    tmp_path: Path, told: list[str], make: Callable[[Path], None]
) -> None:
    path = tmp_path / "0.monitor.csv"
    make(path)
    MonitorLog(path, "E", 1.0, told.append).flush()
    assert (read_monitor(path)[1], told) == ([], [])


def test_monitor_partial_rows_and_full_disk(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "0.monitor.csv"
    log = MonitorLog(path, "E", 0.0, told.append)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:-3]))
        log.append(1.0, 1, 1.0)
        log.flush()
    assert path.read_bytes() == b""
    log.append(2.0, 2, 2.0)
    log.flush()
    with open(path, "ab") as file:
        file.write(b"3,3")
    again = MonitorLog(path, "E", 9.0, told.append)
    again.append(4.0, 4, 4.0)
    again.flush()
    assert [r["r"] for r in read_monitor(path)[1]] == ["2", "4"]
    assert log.failed == len(told) == 1
    assert again.failed == 0
