"""galamp ls, show and prune: what they read of run folders, and what they never remove."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from galamp.cli.main import main
from galamp.core.config import from_dict, to_dict
from galamp.core.errors import GalampError, UserError
from galamp.storage import checkpoint
from galamp.storage.event_log import EventLog
from galamp.storage.locks import Lock, take_lock
from galamp.storage.run_logs import MetricsLog
from galamp.tools.run_folders import pruning
from galamp.tools.run_folders.listing import runs_in, table
from galamp.tools.run_folders.next_steps import next_steps
from galamp.tools.run_folders.picture import picture
from galamp.tools.run_folders.pruning import plan_of, remove
from galamp.tools.run_folders.record import State, read_record
from galamp.tools.run_folders.run_settings import differing, flags_of
from galamp.tools.run_folders.sizes import size_of, size_text
from tests.support.checkpoints import made

OLD_RUN = Path(__file__).parents[1] / "support" / "old_runs" / "c3d309f"


def begun(folder: Path, status: str | None = None, steps: int = 1000, **settings: Any) -> Path:
    """Make a run folder as a run leaves it; without a status, as one that was killed."""
    folder.mkdir(parents=True)
    config = to_dict(from_dict({"environment": {"env_id": "ALE/Pong-v5"}} | settings))
    (folder / "config.json").write_text(json.dumps(config))
    row = {"start": 1, "global_step": steps, "charts/episodic_return": 2.5, "wall_s": 60.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    if status is not None:
        summary = {
            "status": status, "agent_steps": steps, "start": 1, "mean_return_100": 3.25,
            "ended_by": "total-steps", "reason": "all agent steps are done", "failure": None,
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def with_checkpoints(run: Path, *steps: int) -> list[Path]:
    saved = [checkpoint.save(run / "checkpoints", made(each)) for each in steps]
    checkpoint.point(run / "checkpoints", "latest", saved[-1])
    return saved


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Lock]:
    """The lock of a run that this process has."""
    lock = take_lock(begun(tmp_path / "locked"), datetime.now())
    yield lock
    lock.close()


def elsewhere(folder: Path) -> Path:
    run = begun(folder)
    (run / "lock").write_text("process 7 on another-machine since 2026-01-01 00:00:00\n")
    return run


# ls


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_a_run_that_ended_is_in_the_state_that_it_says(tmp_path: Path, status: str) -> None:
    record = read_record(begun(tmp_path / "run", status))
    assert record.state == status
    assert (record.agent_steps, record.score) == (1000, 3.25)


@pytest.mark.parametrize("status", [None, "rescaled", "\x1b[2J", "dead"])
def test_a_run_without_a_last_word_is_dead(tmp_path: Path, status: str | None) -> None:
    assert read_record(begun(tmp_path / "run", status)).state is State.DEAD


def test_a_summary_of_an_earlier_start_says_nothing(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", "finished")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"start": 2, "global_step": 1500}\n')
    record = read_record(run)
    assert record.state is State.DEAD
    assert record.agent_steps == 1500


def goes_on(run: Path, start: int, step: int) -> None:
    """Begin a start of a run, from so many agent steps; it has no row of its own yet."""
    MetricsLog(run / "metrics.jsonl", start, step, lambda text: None)


@pytest.mark.parametrize("start", [2, 3])
def test_a_start_without_a_row_yet_has_the_values_that_it_goes_on_from(
    tmp_path: Path, start: int
) -> None:
    """Until its first row there is no summary of it either."""
    run = begun(tmp_path / "run", "stopped", steps=100)
    for number in range(2, start + 1):
        goes_on(run, number, 100)
    record = read_record(run)
    assert record.state is State.DEAD
    assert (record.agent_steps, record.score, record.number("", "wall_s")) == (100, 2.5, 60.0)
    assert record.row["start"] == start
    with contextlib.closing(take_lock(run, datetime.now())):
        assert read_record(run).state is State.RUNNING
        assert read_record(run).score == 2.5


def test_rows_beyond_the_checkpoint_that_a_run_goes_on_from_do_not_count(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", steps=100)
    rows = [{"start": 1, "global_step": at, "charts/episodic_return": at} for at in range(200, 999)]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    goes_on(run, 2, 150)
    assert (read_record(run).agent_steps, read_record(run).score) == (150, 2.5)
    goes_on(run, 3, 500)  # of another's: the second start has superseded what lies between
    assert (read_record(run).agent_steps, read_record(run).score) == (500, 2.5)


@pytest.mark.parametrize(("episodes", "best"), [(5000, "best      -"), (99, "best after 100")])
def test_a_best_mean_that_only_the_summary_has_is_not_to_come(
    tmp_path: Path, episodes: int, best: str
) -> None:
    """That of a run which lives, or was killed."""
    run = begun(tmp_path / "run")
    row = {"start": 1, "global_step": 9, "charts/episodic_return": 2.5, "charts/episodes": episodes}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    said = "\n".join(line.plain for line in picture(read_record(run), 100))
    assert best in said
    assert ("after 100" in said) == (episodes < 100)


def test_frames_are_those_of_the_steps_that_a_run_goes_on_from(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", steps=100)
    row = {"start": 1, "global_step": 90, "emulator_frames": 360}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    goes_on(run, 2, 100)
    assert read_record(run).row["emulator_frames"] == 400


def test_a_run_that_begins_has_no_values(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    goes_on(run, 1, 0)
    assert (read_record(run).agent_steps, read_record(run).score) == (0, None)


def test_a_run_that_is_locked_runs(locked: Lock, tmp_path: Path) -> None:
    assert read_record(tmp_path / "locked").state is State.RUNNING
    assert read_record(elsewhere(tmp_path / "other")).state is State.ELSEWHERE


def test_the_newest_run_comes_first_and_latest_is_not_listed_twice(tmp_path: Path) -> None:
    for age, name in enumerate(("a", "b", "c")):
        run = begun(tmp_path / name)
        for file in run.iterdir():
            os.utime(file, (0, 1000 - age))
    (tmp_path / "latest").symlink_to("b")
    (tmp_path / "no run").mkdir()
    (tmp_path / "file").write_text("")
    assert [record.path.name for record in runs_in(tmp_path)] == ["a", "b", "c"]
    assert [record.path.name for record in runs_in(tmp_path / "a")] == ["a"]


@pytest.mark.parametrize("width", [20, 60, 80, 200, None])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int | None) -> None:
    begun(tmp_path / ("name" * 40), "finished")
    begun(tmp_path / "\x1b[2Jshort", resources={"learners": 3})
    lines = table(runs_in(tmp_path), width)
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
    if width is not None:
        assert max(map(len, lines)) <= width
    if width != 20:
        assert "Pong-v5" in lines[1]
    if width is None:
        assert "name" * 40 in "".join(lines)
        assert "1,000 of 10.0M" in lines[1]


def test_the_list_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path / "run", "finished", resources={"learners": 3})
    assert main(["ls", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found.pop("age_s") >= 0
    assert found.pop("bytes") == size_of(tmp_path / "run") > 0
    assert found == {
        "run": str(tmp_path / "run"), "env_id": "ALE/Pong-v5", "learners": 3, "agent_steps": 1000,
        "total_steps": 10_000_000, "mean_return_100": 3.25, "state": "finished",
    }  # fmt: skip


def test_no_runs_yet_is_no_mistake_but_a_wrong_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == "no runs in runs; begin one: galamp run --game Breakout\n"
    assert main(["ls", "elsewhere"]) == 2
    assert "elsewhere: No such file or directory" in capsys.readouterr().err


def test_what_may_not_be_looked_into_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, theirs = begun(tmp_path / "runs" / "mine", "finished"), tmp_path / "theirs" / "run"
    begun(theirs)
    (tmp_path / "runs" / "linked").symlink_to(theirs)
    (tmp_path / "runs" / "loop").symlink_to("loop")  # no look into it is possible, even for root
    (run / "linked").symlink_to(theirs)
    stat = os.stat

    def refused(path: Any, *args: Any, **known: Any) -> os.stat_result:
        if "linked" in str(path) and known.get("follow_symlinks", True):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **known)

    monkeypatch.setattr(os, "stat", refused)
    assert main(["ls", str(tmp_path / "runs")]) == 0
    assert "mine" in capsys.readouterr().out
    assert main(["show", str(run)]) == 0
    assert "linked\n" in capsys.readouterr().out
    assert main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 0


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"total_steps": "x", "environment": 3}', "[" * 10_000,
                '{"environment": {"env_id": 7}}', '{"resources": {"learners": -1}}'],
)  # fmt: skip
def test_a_damaged_run_is_listed_and_shown_as_far_as_it_can_be(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path / "run")
    for name in ("config.json", "metrics.jsonl", "summary.json", "events.jsonl", "eval-x.json"):
        (run / name).write_text(content)
    assert main(["ls", str(tmp_path)]) == 0
    assert main(["show", str(run)]) == 0
    assert main(["show", str(run), "--json"]) == 0
    assert "Traceback" not in capsys.readouterr().err


# show


def test_settings_that_differ_are_flags() -> None:
    stored = to_dict(
        from_dict({
            "seed": 7, "gossip": {"sync": True, "max_staleness": None, "certificate": False},
            "environment": {"env_id": "ALE/Pong-v5", "sticky_actions": 0.25, "fire_reset": None,
                            "observation_reading": "space"},
            "resources": {"learners": 2}, "algorithm": {"learning_rate": 0.001},
            "stop": {"max_time": 7200.0}, "report": {"quiet": True, "run_dir": "x"},
        })
    )  # fmt: skip
    found = differing(stored | {"resolved": {}})
    assert flags_of(found.given) == [
        "--seed 7", "--env-id ALE/Pong-v5", "--sync", "--max-staleness inf", "--no-certificate",
        "--max-time 2h",
    ]  # fmt: skip
    assert flags_of(found.open) == [
        "--sticky-actions 0.25",
        "--learning-rate 0.001",
        "--learners 2",
    ]
    assert differing(to_dict(from_dict({}))) == ([], [])


def test_all_that_is_known_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD_RUN, run)
    log = EventLog(run / "events.jsonl", 1, pytest.fail)
    log.append(0.0, 0.0, "2 learners", kind="start", command="galamp run --env-id CartPole-v1")
    for number in range(20):
        log.append(1.0, 1.0, f"event {number}", wall_s=61.0)
    evaluation = {
        "results": [{"mean": 31.5, "standard_error": 2.0, "episodes": 30, "learner": "mean"}],
        "agent_steps": 4000, "greedy": True,
    }  # fmt: skip
    (run / "eval-ckpt-000000004000-mean-20260101-000000.json").write_text(json.dumps(evaluation))
    assert main(["show", str(run)]) == 0
    text = capsys.readouterr().out
    for words in (
        "CartPole-v1", "finished", "4,000 of 4,000 agent steps", "score      23.9 mean of",
        "galamp run --env-id CartPole-v1", "--sync", "event 19", "events, the last 12 of 21",
        "31.50 ± 2.00 in 30 games, greedy, learner mean, at 4,000 agent steps", "checkpoints/",
        f"galamp eval {run}", f"galamp run --resume {run} --total-steps 8000",
        f"galamp audit {run}",
    ):  # fmt: skip
        assert words in text, words
    assert "1 m 01 s  event 8\n" in text
    assert "event 7\n" not in text
    assert "\x1b" not in text
    assert main(["show", str(run), "--events", "21", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["commands"] == ["galamp run --env-id CartPole-v1"]
    assert len(told["events"]) == 21
    assert told["settings"]["--seed"] == 3
    assert told["summary"]["agent_steps"] == 4000


def test_a_running_run_is_watched_and_not_resumed(locked: Lock, tmp_path: Path) -> None:
    steps = [command for command, _ in next_steps(read_record(tmp_path / "locked"))]
    run = tmp_path / "locked"
    assert steps == [f"galamp attach {run}", f"galamp scale {run} --learners N"]


@pytest.mark.parametrize(
    ("status", "ended_by", "first", "resume"),
    [
        ("finished", "total-steps", "galamp eval", " --total-steps 20000000"),
        ("finished", "stop-score", "galamp eval", " --stop-score none"),
        ("stopped", "max-time", "galamp run", ""),
        (None, "", "galamp run", ""),
    ],
)
def test_what_is_next_is_a_command(
    tmp_path: Path, status: str | None, ended_by: str, first: str, resume: str
) -> None:
    run = begun(tmp_path / "a run", status)
    if status is not None:
        summary = json.loads((run / "summary.json").read_text()) | {"ended_by": ended_by}
        (run / "summary.json").write_text(json.dumps(summary))
    with_checkpoints(run, 100)
    steps = [command for command, _ in next_steps(read_record(run))]
    assert steps[0].startswith(first)
    assert f"galamp run --resume '{run}'{resume}" in steps


def test_code_of_the_users_is_named_in_what_is_next(tmp_path: Path) -> None:
    run = begun(
        tmp_path / "run", "stopped", environment={"env_id": "mine:make"},
        report={"sinks": "jsonl,mine:Sink"},
    )  # fmt: skip
    with_checkpoints(run, 100)
    resume, evaluate, *_ = [command for command, _ in next_steps(read_record(run))]
    assert resume == f"galamp run --resume {run} --env-id mine:make --sinks jsonl,mine:Sink"
    assert evaluate == f"galamp eval {run} --env-id mine:make"


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("show", "prune"):
        assert main([command, str(tmp_path)]) == 2
        assert "not a run folder" in capsys.readouterr().err


# prune


def left(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_nothing_is_removed_without_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begun(tmp_path / "run", "finished")
    old, _ = with_checkpoints(run, 100, 200)
    for flags in ([], ["--whole"], ["--keep", "1"]):
        assert main(["prune", str(run), *flags]) == 0
        assert "nothing is removed yet" in capsys.readouterr().out
    assert old.is_dir()
    assert (run / "config.json").is_file()


def test_the_newest_the_best_and_the_latest_checkpoint_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path / "run", "finished")
    first, best, third, fourth, last = with_checkpoints(run, 100, 200, 300, 400, 500)
    checkpoint.point(run / "checkpoints", "best", best)
    assert main(["prune", str(run), "--keep", "2", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert first.name in shown
    assert third.name in shown
    assert left(run) == sorted(["best", "latest", best.name, fourth.name, last.name])
    assert checkpoint.find(run).path == last


def test_the_newest_whole_checkpoint_stays_where_newer_ones_are_damaged(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    old, whole, damaged = with_checkpoints(run, 100, 200, 300)
    (damaged / "state.json").write_text("{}")
    plan = plan_of(run, 1, whole=False)
    assert plan.goes == (old,)
    assert damaged.name in plan.note
    remove(plan, 1)
    assert checkpoint.find(run).path == whole
    (whole / "state.json").write_text("{}")
    assert plan_of(run, 1, whole=False).goes == ()


def test_a_whole_run_goes_but_for_what_is_the_users(tmp_path: Path) -> None:
    run, other = begun(tmp_path / "run", "finished"), begun(tmp_path / "other")
    with_checkpoints(run, 100)
    for folder in ("logs", "monitor"):
        (run / folder).mkdir()
    for name in ("learner-0", "simulator-0.1", "bridge", "profile", "wandb"):
        (run / "logs" / f"{name}.log").write_text("")
    (run / "monitor" / "0.monitor.csv").write_text("")
    (run / "notes.txt").write_text("mine")
    (run / "logs" / "mine.txt").write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    (run / "elsewhere").symlink_to(outside)
    (tmp_path / "latest").symlink_to("run")
    plan = plan_of(run, 1, whole=True)
    assert plan.stays == 3
    assert remove(plan, 1) > 0
    found = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    assert found == ["elsewhere", "logs", "logs/mine.txt", "notes.txt"]
    assert (outside / "kept").is_file()
    assert (tmp_path / "latest").is_symlink(), "the folder is still there"
    assert other.is_dir()


def test_what_other_commands_or_the_user_wrote_stays(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", "finished")
    report = "eval-ckpt-000000004000-mean-20260101-000000.json"
    kept = {report, "eval-mine.json", ".tmp-notes", "tensorboard/events.out.tfevents.1"}
    gone = {"eval.jsonl", ".tmp-4711-0123abcd", ".tmp-0123abcd-4711-0123abcd"}
    (run / "tensorboard").mkdir()
    for name in kept | gone:
        (run / name).write_text("")
    plan = plan_of(run, 1, whole=True)
    assert plan.stays == len(kept)
    remove(plan, 1)
    assert {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} == kept


@pytest.mark.parametrize("sinks", ["jsonl,tensorboard", "tensorboard"])
def test_event_files_of_the_run_itself_go(tmp_path: Path, sinks: str) -> None:
    run = begun(tmp_path / "run", "finished", report={"sinks": sinks})
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "events.out.tfevents.0000000001.0000").write_text("")
    remove(plan_of(run, 1, whole=True), 1)
    assert not run.exists()


def test_a_whole_run_goes_with_its_folder_and_latest(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", "finished")
    with_checkpoints(run, 100)
    (tmp_path / "latest").symlink_to("run")
    assert main(["prune", str(tmp_path / "latest"), "--whole", "--yes"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [[], ["--whole"]])
def test_a_run_that_may_be_alive_is_refused_and_nothing_else_is_removed(
    locked: Lock, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ended = begun(tmp_path / "ended", "finished")
    with_checkpoints(ended, 100, 200)
    before = sorted(map(str, tmp_path.rglob("*")))
    for alive in (tmp_path / "locked", elsewhere(tmp_path.parent / f"{tmp_path.name}-other")):
        assert main(["prune", str(ended), str(alive), *flags, "--yes"]) == 2
        assert "nothing is removed" in capsys.readouterr().err
        assert (alive / "config.json").is_file()
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_run_that_starts_after_it_was_shown_is_left_alone(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    plan = plan_of(run, 1, whole=True)
    lock = take_lock(run, datetime.now())
    with pytest.raises(UserError, match="in use"):
        remove(plan, 1)
    lock.close()
    assert (run / "config.json").is_file()


def test_what_was_not_shown_is_not_removed(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with_checkpoints(run, 100, 200)
    plan = plan_of(run, 1, whole=False)
    with_checkpoints(run, 300)
    with pytest.raises(UserError, match="has changed meanwhile"):
        remove(plan, 1)
    assert len(left(run)) == 4


@pytest.mark.parametrize("name", ["checkpoints", "logs"])
def test_nothing_is_removed_through_links(tmp_path: Path, name: str) -> None:
    run, outside = begun(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (run / name).symlink_to(outside)
    for whole in (True, False):
        with pytest.raises(UserError, match="is a link"):
            plan_of(run, 1, whole=whole)


def test_a_disk_that_refuses_leaves_a_run_that_can_be_pruned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run")
    with_checkpoints(run, 100)
    plan, removed = plan_of(run, 1, whole=True), pruning._remove

    def refusing(path: Path) -> None:
        if path.name == "metrics.jsonl":
            raise PermissionError(1, "Operation not permitted", str(path))
        removed(path)

    monkeypatch.setattr(pruning, "_remove", refusing)
    with pytest.raises(GalampError, match=r"metrics\.jsonl: not removed"):
        remove(plan, 1)
    monkeypatch.undo()
    assert not (run / "checkpoints" / "ckpt-000000000100").exists()
    remove(plan_of(run, 1, whole=True), 1)
    assert not run.exists()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (102_400, "100 KiB"),
     (73.4 * 2**20, "73.4 MiB"), (2**60, "1048576 TiB")],
)  # fmt: skip
def test_sizes_in_words(size: float, text: str) -> None:
    assert size_text(size) == text
