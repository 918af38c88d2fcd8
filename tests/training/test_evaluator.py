"""Evaluations while a run trains: when, of which checkpoint, what is kept, and what failures do."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core.config import from_dict, to_dict
from galamp.core.errors import UserError
from galamp.core.eval_config import EvalConfig
from galamp.core.processes.probe_process import Answer
from galamp.storage.eval_log import EVALUATIONS, Evaluation, EvaluationLog, best_of
from galamp.storage.eval_log import read_evaluations as read
from galamp.storage.event_log import read_events
from galamp.supervision.restart_policy import QUIET_S
from galamp.training import evaluator
from galamp.training.checkpointing import Written
from galamp.training.evaluator import Evaluator
from galamp.training.session import Session
from tests.support.engine import galamp, run, summary
from tests.support.told import Told

EVERY = 100


class Process:
    """An evaluation that ends when the test says how."""

    def __init__(self, program: str, request: dict[str, Any], *, timeout_s: float) -> None:
        self.request, self.timeout_s = request, timeout_s
        self.text, self.in_time, self.has_ended, self.cancelled = "", True, False, False
        self.ending = "killed by SIGKILL"

    def score(self, mean: float | None) -> None:
        """End with a result."""
        result = {
            "learner": "mean", "mean_of": 3, "mean": mean, "std": 1.0, "standard_error": 0.5,
            "episodes": 4, "returns": [1.0, 2.0], "lengths": [3, 4], "truncated": 0,
        }  # fmt: skip
        report = {
            "results": [result], "seed": 11, "num_envs": 2, "protocol": "classic",
            "max_frames": 108_000, "max_episode_steps": 500, "greedy": True,
        }  # fmt: skip
        self.end({"report": report})

    def end(self, found: object) -> None:
        """End with an answer."""
        self.text, self.has_ended = json.dumps(found), True

    def answer(self) -> Answer:
        return Answer(self.text, "", self.in_time)

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """A run without processes: its steps, its checkpoints, and what its evaluator has done."""

    def __init__(self, folder: Path, steps: int = 0, restarts: int = 10) -> None:
        self.steps, self.told, self.started = steps, Told(), list[Process]()
        self.requests, self.best = 0, list[str]()
        config = from_dict(
            {
                "evaluation": {"eval_every": EVERY, "eval_episodes": 4},
                "resources": {"max_restarts": restarts},
            }
        )
        run_layout = SimpleNamespace(
            plan=SimpleNamespace(config=config),
            status_board=SimpleNamespace(agent_steps=lambda: self.steps),
            sketch=SimpleNamespace(network="mlp"),
            environment=SimpleNamespace(frames_per_step=4),
            start=1,
        )
        self.recorder = SimpleNamespace(
            folder=SimpleNamespace(path=folder, where=lambda path: path),
            log_event=self.told.log_event,
            evaluation=None,
        )
        self.saver = SimpleNamespace(
            newest=None, protected=None, request=self._request, point_best=self._point_best
        )
        self.evaluator = Evaluator(
            cast(Any, run_layout), cast(Any, self.recorder), cast(Any, self.saver), (3,)
        )

    def _request(self) -> None:
        self.requests += 1

    def _point_best(self, path: Path) -> None:
        assert path == self.saver.protected
        self.best.append(path.name)

    def save(self, steps: int) -> None:
        """Train up to so many steps, and write a checkpoint there."""
        self.steps = steps
        self.saver.newest = Written(Path(f"checkpoints/ckpt-{steps}"), steps, steps / 10)

    def tick(self) -> Process:
        """Run once through the loop; returns the newest process."""
        self.evaluator.tick()
        return self.started[-1]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace processes and clock; returns the clock and the list that takes the processes."""
    known: dict[str, Any] = {"s": 1000.0, "started": []}

    def start(*arguments: Any, **more: Any) -> Process:
        known["started"].append(Process(*arguments, **more))
        return cast(Process, known["started"][-1])

    monkeypatch.setattr(evaluator, "Probing", start)
    monkeypatch.setattr(evaluator, "time", SimpleNamespace(monotonic=lambda: known["s"]))
    return known


def world(folder: Path, processes: dict[str, Any], **known: Any) -> World:
    made = World(folder, **known)
    made.started = processes["started"]
    return made


def test_every_n_steps_a_checkpoint_is_requested_and_played(
    tmp_path: Path, processes: dict[str, Any]
) -> None:
    of = world(tmp_path, processes)
    of.save(99)
    of.evaluator.tick()
    assert (of.started, of.requests) == ([], 0)
    of.steps = 101  # due, but the newest checkpoint is older
    of.evaluator.tick()
    of.evaluator.tick()
    assert (of.started, of.requests) == ([], 1)
    of.save(102)
    process = of.tick()
    assert of.saver.protected == Path("checkpoints/ckpt-102")
    assert process.request["checkpoint"] == "checkpoints/ckpt-102"
    assert process.request["cores"] == (3,)
    assert process.request["settings"]["episodes"] == 4
    of.save(150)
    of.tick()
    process.score(5.0)
    of.tick()
    assert len(of.started) == 1, "the next one is due at 200"
    (line,) = read(tmp_path)
    assert (line.agent_steps, line.emulator_frames, line.wall_s) == (102, 408, 10.2)
    assert (line.mean, line.episodes, line.returns, line.best) == (5.0, 4, (1.0, 2.0), True)
    assert (line.learner, line.std, line.standard_error, line.lengths) == ("mean", 1.0, 0.5, (3, 4))
    assert line.mean_of == 3
    told = json.loads((tmp_path / EVALUATIONS).read_text())
    protocol = {
        "seed": 11, "num_envs": 2, "protocol": "classic", "max_frames": 108_000,
        "max_episode_steps": 500, "greedy": True,
    }  # fmt: skip
    assert {name: told[name] for name in protocol} == protocol
    assert of.saver.protected is None
    assert of.recorder.evaluation.mean == 5.0
    assert "evaluation at 102 agent steps: score 5.00 ± 0.50 in 4 games" in of.told[-1]


def test_the_highest_mean_is_the_best(tmp_path: Path, processes: dict[str, Any]) -> None:
    of = world(tmp_path, processes)
    for steps, mean in ((100, 5.0), (200, 4.0), (300, 5.0), (400, 6.0)):
        of.save(steps)
        of.tick().score(mean)
        of.tick()
    assert of.best == ["ckpt-100", "ckpt-400"]
    assert [line.best for line in read(tmp_path)] == [True, False, False, True]
    assert (of.recorder.evaluation.best, of.recorder.evaluation.best_at) == (6.0, 400)


def test_one_that_falls_behind_goes_on_with_the_newest(
    tmp_path: Path, processes: dict[str, Any]
) -> None:
    of = world(tmp_path, processes)
    of.save(100)
    process = of.tick()
    for steps in (200, 300, 450):
        of.save(steps)
        of.tick()
    process.score(1.0)
    assert of.tick().request["checkpoint"].endswith("ckpt-450")
    of.started[-1].score(2.0)
    of.tick()
    assert [(line.agent_steps, line.skipped) for line in read(tmp_path)] == [(100, 0), (450, 2)]
    assert [text for text in of.told if "2 left out before that at 450" in text]
    of.save(500)
    assert of.tick().request["checkpoint"].endswith("ckpt-500")


def test_a_failure_is_tried_again_and_then_left_out(
    tmp_path: Path, processes: dict[str, Any]
) -> None:
    of = world(tmp_path, processes)
    of.save(100)
    for _ in range(2):
        of.tick().end({"problem": "the game is broken"})
        of.evaluator.tick()
        of.evaluator.tick()
    assert len(of.started) == 2
    assert of.told[0].endswith("failed: the game is broken: tried again")
    assert of.told[1].endswith("left out, the same as before")
    of.evaluator.start_last()
    assert len(of.started) == 2
    processes["s"] += QUIET_S + 1
    of.save(200)
    of.tick().score(3.0)
    of.tick()
    assert [line.agent_steps for line in read(tmp_path)] == [200]


def test_one_that_is_killed_is_started_anew_until_it_is_given_up(
    tmp_path: Path, processes: dict[str, Any]
) -> None:
    of = world(tmp_path, processes, restarts=2)
    of.save(100)
    for _ in range(5):
        of.evaluator.tick()
        if not of.started[-1].has_ended:
            of.started[-1].has_ended = True
        of.evaluator.tick()
        processes["s"] += 60.0
    assert len(of.started) == 3
    assert "ended without a result (killed by SIGKILL)" in of.told[0]
    assert of.told[-1].endswith("given up, too often; training goes on without")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UserError("shared memory cannot be created"), "shared memory cannot be created"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "Resource temporarily"),
    ],
)
def test_one_that_cannot_be_started_is_tried_again(
    error: Exception, why: str, tmp_path: Path, processes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """For want of a descriptor, say: the run goes on."""
    start = evaluator.Probing

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(evaluator, "Probing", refuse)
    of = world(tmp_path, processes)
    of.save(100)
    of.evaluator.tick()
    assert (of.evaluator.is_playing, of.saver.protected) == (False, None)
    assert f"could not be started: {why}" in of.told[0]
    monkeypatch.setattr(evaluator, "Probing", start)
    of.tick().score(3.0)
    of.tick()
    assert [line.agent_steps for line in read(tmp_path)] == [100]


def test_no_finite_mean_and_no_time_left(tmp_path: Path, processes: dict[str, Any]) -> None:
    of = world(tmp_path, processes)
    of.save(100)
    of.tick().score(None)
    of.tick()
    assert read(tmp_path) == []
    assert "its mean is not finite" in of.told[-1]
    of.save(200)
    process = of.tick()
    of.evaluator.close("the run has ended")
    assert process.cancelled
    assert of.told[-1] == "evaluation at 200 agent steps left out: the run has ended"
    assert not of.evaluator.is_playing
    assert of.saver.protected is None


def test_the_last_checkpoint_is_played_once(tmp_path: Path, processes: dict[str, Any]) -> None:
    of = world(tmp_path, processes)
    of.save(170)
    of.tick().score(1.0)
    of.tick()
    of.evaluator.start_last()
    assert len(of.started) == 1
    of.save(190)
    of.evaluator.start_last()
    of.evaluator.start_last()
    assert len(of.started) == 2


@pytest.mark.parametrize(
    ("done", "steps", "next_one"),
    [([], 0, 100), ([], 250, 300), ([100], 250, 200), ([100, 200], 250, 300), ([300], 250, 300)],
)
def test_a_resumed_run_goes_on_where_it_was(
    done: list[int], steps: int, next_one: int, tmp_path: Path, processes: dict[str, Any]
) -> None:
    log = EvaluationLog(tmp_path, lambda text: None)
    for each in done:
        log.append(Evaluation(each, mean=float(each), episodes=1))
    of = world(tmp_path, processes, steps=steps)
    of.save(max(steps, next_one - 1))
    of.evaluator.tick()
    assert bool(of.started) == (steps >= next_one)
    of.save(next_one)
    of.evaluator.tick()
    assert len(of.started) == 1
    kept = [each for each in done if each <= steps]
    assert (of.recorder.evaluation is None) == (not kept)


def test_what_a_resumed_run_does_anew_counts(tmp_path: Path) -> None:
    log = EvaluationLog(tmp_path, lambda text: None)
    for steps, mean in ((100, 1.0), (200, 9.0), (300, 3.0), (190, 4.0)):
        log.append(Evaluation(steps, mean=mean, episodes=1))
    with open(tmp_path / EVALUATIONS, "a") as file:
        file.write('{"agent_steps": 400, "mean": NaN, "episodes": 1}\n[]\n{"agent_steps"')
    found = read(tmp_path)
    assert [(each.agent_steps, each.mean) for each in found] == [(100, 1.0), (190, 4.0)]
    best = best_of(found)
    assert best is not None
    assert best.agent_steps == 190


def evaluated(folder: Path, *steps: int) -> None:
    log = EvaluationLog(folder, lambda text: None)
    for each in steps:
        log.append(Evaluation(each, mean=float(each), episodes=1))


def test_evaluations_beyond_where_a_run_goes_on_count_no_more(
    tmp_path: Path, processes: dict[str, Any]
) -> None:
    """Neither before its next evaluation, nor in a start that is beyond them again."""
    evaluated(tmp_path, 100, 200, 300)
    world(tmp_path, processes, steps=150)
    assert [each.agent_steps for each in read(tmp_path)] == [100]
    of = world(tmp_path, processes, steps=400)
    assert of.recorder.evaluation.best == 100.0
    evaluated(tmp_path, 420)
    assert [each.agent_steps for each in read(tmp_path)] == [100, 420]


def test_a_run_that_goes_on_from_its_last_evaluation_or_later_says_nothing(
    tmp_path: Path, processes: dict[str, Any]
) -> None:
    world(tmp_path, processes)
    assert not (tmp_path / EVALUATIONS).exists()
    evaluated(tmp_path, 100, 200)
    before = (tmp_path / EVALUATIONS).read_bytes()
    for steps in (200, 250):
        world(tmp_path, processes, steps=steps)
    assert (tmp_path / EVALUATIONS).read_bytes() == before


def test_a_run_that_is_no_longer_evaluated_goes_on_without_them_too(tmp_path: Path) -> None:
    evaluated(tmp_path, 100, 200)
    plan = SimpleNamespace(config=from_dict({}))
    layout = SimpleNamespace(plan=plan, status_board=SimpleNamespace(agent_steps=lambda: 150))
    folder = SimpleNamespace(path=tmp_path, where=lambda path: path)
    session = cast(Any, SimpleNamespace(_folder=folder))
    assert Session._evaluator(session, cast(Any, layout), cast(Any, None), cast(Any, None)) is None
    assert [each.agent_steps for each in read(tmp_path)] == [100]


@pytest.mark.parametrize("line", ['{"resumed_from": -1}', '{"resumed_from": "x"}', "{}"])
def test_a_line_that_says_nothing_takes_no_evaluation_away(tmp_path: Path, line: str) -> None:
    evaluated(tmp_path, 100)
    with open(tmp_path / EVALUATIONS, "a") as file:
        file.write(f"{line}\n")
    assert len(read(tmp_path)) == 1


def test_settings() -> None:
    values = {"evaluation": {"eval_every": 500_000, "eval_episodes": 3}}
    assert to_dict(from_dict(values))["evaluation"] == values["evaluation"]
    assert from_dict({}).evaluation == EvalConfig(None, 10)
    words = {"evaluation": {"eval_every": "1.5M"}}
    assert from_dict(words).evaluation.eval_every == 1_500_000
    for wrong in ("0", "k", "1.0000005M", "500q", "-1k"):
        with pytest.raises(UserError, match="--eval-every"):
            from_dict({"evaluation": {"eval_every": wrong}})


def test_a_run_evaluates_itself_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--learners", 1, "--num-envs", 4, "--simulator-workers", 1, "--num-steps", 5]
    evaluated = [
        "--eval-every",
        "1k",
        "--eval-episodes",
        2,
        "--env-id",
        "tests.support.stills:make",
    ]
    ended = run(*flags, *evaluated, "--total-steps", 2000, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    found = read(folder)
    assert found[-1].agent_steps == summary(folder)["agent_steps"]
    assert all(each.returns == (7.0, 7.0) for each in found)
    assert summary(folder)["evaluation"]["best"] == 7.0
    best = (folder / "checkpoints" / "best").resolve().name
    assert best == found[0].checkpoint, "ties change nothing"
    told = [event for event in read_events(folder / "events.jsonl") if event.kind == "evaluation"]
    assert len(told) >= len(found)
    shown = galamp("show", folder).stdout
    assert "eval     score 7.0 ± 0.0" in shown
    assert EVALUATIONS in shown
