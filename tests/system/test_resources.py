"""Real runs on machines that lack something: /dev/shm, descriptors, memory, disk, a whole ROM."""

from __future__ import annotations

import platform
import resource
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from galamp.core.errors import UserError
from galamp.environments.names import canonical_env_id
from galamp.storage import checkpoint as ck
from galamp.storage.run_logs import last_row
from galamp.telemetry.display.streams import STARTING
from tests.support.engine import (
    DEADLINE_S,
    ROOT,
    command,
    run,
    started,
    summary,
    titled,
    training,
    wait_for,
)
from tests.support.namespaces import within
from tests.support.real_groups import real_group

CARTPOLE = ("--env-id", "CartPole-v1", "--num-envs", 2, "--quiet")
REFUSED = 2


def one_line(told: str) -> str:
    (line,) = told.removeprefix(STARTING).splitlines()
    assert line.startswith("galamp: ")
    return line


# Shared memory


@pytest.mark.slow
@pytest.mark.parametrize("options", ["nr_inodes=1", "size=4k", "ro"])
def test_dev_shm_is_not_used(tmp_path: Path, options: str) -> None:
    """Too small to hold anything, not even a name, or not to be written to."""
    words = command(
        *CARTPOLE, "--learners", 2, "--total-steps", 1000, "--run-dir", tmp_path / "run"
    )
    listed = f"ls -A /dev/shm > {shlex.quote(str(tmp_path / 'left'))}"
    ended = within(Path("/dev/shm"), options, words, listed)
    assert ended.returncode == 0, ended.stderr
    assert summary(tmp_path / "run")["agent_steps"] >= 1000
    assert (tmp_path / "left").read_text() == ""


# Descriptors


def limited(descriptors: int, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = shlex.join(command(*CARTPOLE, "--run-dir", folder, *arguments))
    return subprocess.run(
        ["sh", "-c", f"ulimit -n {descriptors} && exec {words}"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    "descriptors", [pytest.param(n, marks=pytest.mark.slow) for n in (16, 24, 32, 64, 79)]
)
def test_too_few_descriptors_are_refused(tmp_path: Path, descriptors: int) -> None:
    ended = limited(descriptors, tmp_path / "run", "--learners", 2, "--total-steps", 400)
    assert ended.returncode == REFUSED, ended.stderr
    assert f"the limit is {descriptors}" in one_line(ended.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [8, 9, 10, 11, 12, 13, 14])
def test_fewer_than_a_start_takes_are_told_too(tmp_path: Path, descriptors: int) -> None:
    ended = limited(descriptors, tmp_path / "run", "--learners", 2, "--total-steps", 400)
    assert ended.returncode == REFUSED, ended.stderr
    assert "ulimit" in one_line(ended.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [80, 81, 96, 128, 256, 1024, 4096])
def test_enough_descriptors_are_enough(tmp_path: Path, descriptors: int) -> None:
    ended = limited(descriptors, tmp_path / "run", "--learners", 2, "--total-steps", 400)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(("learners", "workers", "needed"), [(4, 4, 144), (8, 2, 160)])
def test_the_least_that_is_not_refused_is_enough(
    tmp_path: Path, learners: int, workers: int, needed: int
) -> None:
    arguments = ("--learners", learners, "--simulator-workers", workers, "--num-envs", workers)
    arguments = (*arguments, "--total-steps", 2000)
    ended = limited(needed - 1, tmp_path / "less", *arguments)
    assert f"need {needed} open files" in one_line(ended.stderr)
    ended = limited(needed, tmp_path / "enough", *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
def test_a_low_soft_limit_is_raised_where_it_has_to_be(tmp_path: Path) -> None:
    """By the supervisor, and by the server, which was started before; not for environments."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    many = ("--learners", 2, "--num-envs", 20, "--simulator-workers", 20, "--run-dir")
    words = shlex.join(command(*CARTPOLE, *many, tmp_path / "run", "--log-every-s", 0.1))
    words = f"ulimit -Sn 40 && exec {words}"
    process = subprocess.Popen(["sh", "-c", words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: training(tmp_path / "run"), "training")
        (server,) = titled(process.pid, "server")
        assert resource.prlimit(server, resource.RLIMIT_NOFILE)[0] == min(2**16, hard)
        children = titled(process.pid, "learner") + titled(process.pid, "simulator")
        assert len(children) == 42
        for pid in children:
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == min(1024, hard)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=2 * DEADLINE_S)[1] == ""
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate()


# Processes and threads


@pytest.mark.slow
def test_a_time_without_room_for_a_thread_costs_checkpoints_only(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    often = ("--checkpoint-every-s", 0.5, "--log-every-s", 0.1, "--total-steps", 10**9)
    flags = ("--env-id", "tests.support.crashing:unhurried", "--num-envs", 2, "--learners", 1)

    def saved() -> set[str]:
        return {path.name for path in (folder / "checkpoints").glob("ckpt-*")}

    def events() -> str:
        return (folder / "events.jsonl").read_text()

    with (
        real_group("pids", max="max") as group,
        started(*flags, *often, "--run-dir", folder) as run,
    ):
        (group / "cgroup.procs").write_text(str(run.pid))
        wait_for(lambda: len(saved()) > 1, "checkpoints")
        (group / "pids.max").write_text("1")
        wait_for(lambda: "no room for another thread" in events(), "a thread that cannot start")
        before = saved()
        (group / "pids.max").write_text("max")
        wait_for(lambda: saved() - before, "a checkpoint")
        (group / "pids.max").write_text("1")
        before = saved()
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=DEADLINE_S)
        assert run.returncode == 143, said
        assert saved() - before, "the last one needs no thread"
    assert "checkpoint not written, training goes on: no room for another thread" in said
    assert "Traceback" not in said
    newest = ck.load(ck.find(folder).path).progress["agent_steps"]
    assert newest == summary(folder)["agent_steps"]


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "tasks"), [(1, 1 + 2 * (1 + 2 * 2)), (3, 1 + 2 * (5 + 2 * 2))])
def test_so_many_threads_as_are_counted_are_enough(
    tmp_path: Path, threads: int, tasks: int
) -> None:
    """Beside those of the supervisor, the resource tracker, the server; the probe has ended."""
    flags = ("--game", "Pong", "--learners", 2, "--num-envs", 2, "--simulator-workers", 2)
    flags += ("--threads", threads, "--checkpoint-every-s", 0.5, "--total-steps", 1500, "--quiet")
    for most, refused in ((3 + tasks - 1, True), (3 + tasks + 3, False)):
        folder = tmp_path / str(most)
        with real_group("pids", max=str(most)) as group:
            words = shlex.join(command(*flags, "--run-dir", folder))
            line = f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))} && exec {words}"
            ended = subprocess.run(
                ["sh", "-c", line], cwd=ROOT, text=True, capture_output=True, timeout=100
            )
            assert ended.returncode == (REFUSED if refused else 0), ended.stderr
            assert (f"{tasks} processes and threads are needed" in ended.stderr) == refused
            assert not refused or not folder.exists()
            if not refused:
                assert "no room" not in (folder / "events.jsonl").read_text()


# Memory


def test_too_little_memory_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    huge = ("--learners", 16, "--num-envs", 4096, "--num-steps", 4096)
    # 14 TB: what might fit would be taken.
    ended = run("--game", "Pong", *huge, "--run-dir", folder)
    assert ended.returncode == REFUSED, ended.stderr
    assert "use fewer --learners, --num-envs or --num-steps" in one_line(ended.stderr)
    assert not folder.exists()


# Disk


@pytest.mark.slow
@pytest.mark.parametrize(("size", "refused"), [("24m", False), ("18m", True)])
def test_a_full_disk_does_not_end_a_run(tmp_path: Path, size: str, refused: bool) -> None:
    """Three checkpoints of 7 MB fit, so older ones go; or two, which stay."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    words = ("--game", "Pong", "--learners", 1, "--num-envs", 4, "--total-steps", 4000)
    often = ("--checkpoint-every-s", 0.5, "--log-every-s", 0.2, "--run-dir", disk / "run")
    copy = f"cp -r {shlex.quote(str(disk / 'run'))} {shlex.quote(str(out))}"
    ended = within(disk, f"size={size}", command(*words, *often), copy)
    assert ended.returncode == 0, ended.stderr
    assert ("checkpoint not written, training goes on: " in ended.stderr) == refused
    assert ("No space left on device" in ended.stderr) == refused
    assert "Traceback" not in ended.stderr
    assert summary(out)["status"] == "finished"
    assert last_row(out / "metrics.jsonl")["global_step"] >= 4000
    checkpoints = sorted((out / "checkpoints").glob("ckpt-*"))
    assert len(checkpoints) >= 2
    for path in checkpoints:
        ck.load(path)
    assert ck.find(out).skipped == ()
    newest = ck.load(ck.find(out).path).progress["agent_steps"]
    assert (newest < summary(out)["agent_steps"]) == refused
    assert not list((out / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.parametrize("pages", range(1, 12))
def test_a_disk_of_a_few_pages_refuses_in_one_line_or_runs(tmp_path: Path, pages: int) -> None:
    """Full at the first file, or at the second, or somewhere later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = command(*CARTPOLE, "--learners", 1, "--total-steps", 200, "--run-dir", disk / "run")
    ended = within(disk, f"size={4 * pages}k", words)
    assert ended.returncode in (0, 2, 70), ended.stderr
    assert "Traceback" not in ended.stderr
    assert all(line.startswith("galamp: ") for line in ended.stderr.splitlines()), ended.stderr


# Two runs in one folder


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_of_twenty_starts_at_once_one_wins_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = command(*CARTPOLE, "--learners", 1, "--checkpoint-every-s", 0.5, "--run-dir", folder)
    starts = [
        subprocess.Popen(words, cwd=ROOT, text=True, stderr=subprocess.PIPE) for _ in range(20)
    ]
    try:
        wait_for(lambda: sum(start.poll() is None for start in starts) <= 1, "refusals", 200)
        wait_for(lambda: (folder / "checkpoints" / "latest").exists(), "a first checkpoint", 200)
        (winner,) = [start for start in starts if start.poll() is None]
        owner = f"in use by process {winner.pid} on {platform.node()} since"
        for start in starts:
            if start is not winner:
                assert start.stderr is not None
                told = one_line(start.stderr.read())
                assert start.returncode == REFUSED
                assert owner in told or "not empty; go on" in told
        resumed = run("--resume", folder)
        assert owner in one_line(resumed.stderr)
        winner.send_signal(signal.SIGKILL)
        winner.wait()
        resumed = run("--resume", folder, "--total-steps", 1, "--quiet")
        assert (resumed.returncode, resumed.stderr) == (0, "")
        told = summary(folder)
        assert (told["status"], told["start"]) == ("finished", 2)
    finally:
        for start in starts:
            start.kill()
            start.communicate()


# Games

BAD_NAMES = [
    "Breakot", "pongg", "space invader", "Sonic", "Doom-v0", "ALE/", "ALE/Nosuch-v5", "ALE/Pong-v9",
    "PongNoFrameskip-v6", "Pong-v6", "Breakout_v5", "combat", "joust", "maze_craze", "Warlords", "",
    " ", "\t", "\n", "\x1b[31m", "ü", "🎮", "../../etc/passwd", "/dev/null", "~", "*", "?", "%s",
    "{}", "$(reboot)", "`id`", "'", '"', "\\", "None", "nan", "0", "-1", "1e9", "True", "auto",
    "Pong;Breakout", "Pong,Breakout", "Pong/Breakout", "pong.bin", "P o n g !", "CartPole",
    "cart-pole", "CartPole-v9", "x" * 10_000,
]  # fmt: skip


def test_bad_names_of_games_are_told_at_once() -> None:
    assert len(BAD_NAMES) == len(set(BAD_NAMES)) == 50
    for name in BAD_NAMES:
        told = r"^unknown (environment|Atari game) |^'\w+' is a game for two players"
        with pytest.raises(UserError, match=told) as refused:
            canonical_env_id(name)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 400


def test_near_names_are_offered() -> None:
    for wrong, right in [("Breakot", "Breakout"), ("pongg", "Pong"), ("CartPole", "CartPole-v1")]:
        with pytest.raises(UserError, match=f"did you mean .*{right}"):
            canonical_env_id(wrong)
