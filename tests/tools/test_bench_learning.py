"""`bin/bench learning` with a stand-in that trains nothing, its memory task, and one real run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from galamp.core.errors import UserError
from galamp.tools.bench import cli, learning, learning_tasks, minatar
from galamp.tools.bench.cue import CUES, DELAY, FirstCue
from galamp.tools.bench.learning import Result, ended_at_the_bar, result
from galamp.tools.bench.learning_tasks import TASKS, Task, chosen
from tests.support.command_lines import parsed
from tests.support.engine import wait_for
from tests.tools.test_bench import alive, unchanged

__all__ = ["unchanged"]

pytestmark = pytest.mark.real  # for they start processes

# Scores rise to ten times the seed; seed 7 fails, seed 9 does not end.
STAND_IN = r"""
import json, os, pathlib, sys, time
options = dict(zip(sys.argv[1:], sys.argv[2:]))
folder, seed = pathlib.Path(options["--run-dir"]), int(options["--seed"])
folder.mkdir()
with (folder / "metrics.jsonl").open("w") as rows:
    for tenth in range(11):
        row = {"global_step": 100 * tenth, "wall_s": tenth / 2, "charts/episodes": 20 * tenth}
        print(json.dumps({**row, "charts/episodic_return": float(seed * tenth)}), file=rows)
if "PIDS" in os.environ:
    part = pathlib.Path(os.environ["PIDS"] + ".part")
    part.write_text(f"{os.getpid()} {folder}")
    part.rename(os.environ["PIDS"])
if seed == 7:
    print("galamp: no such thing")
    sys.exit(3)
if seed == 9:
    time.sleep(600)
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "PROGRAM", (sys.executable, "-c", STAND_IN))
    monkeypatch.setattr(learning, "POLL_S", 0.05)
    tasks = (Task("easy", "--env-id Easy-v0", 1000, 15), Task("hard", "", 1000, 15, control=True))
    monkeypatch.setattr(learning_tasks, "TASKS", {task.name: task for task in tasks})


def row(steps: int, episodes: int, score: float | None) -> dict[str, Any]:
    values = {"global_step": steps, "wall_s": steps / 10, "charts/episodes": episodes}
    return values | {"charts/episodic_return": score}


# Rows to results


def test_the_bar_is_reached_once_for_good() -> None:
    rows = [row(0, 0, None), row(100, 100, 9.9), row(200, 150, 10.0), row(300, 190, 11.0)]
    assert result([*rows, row(400, 220, 8.0)], 10, 1000) == Result(400, 40.0, 8.0, 200)
    assert result(rows[:2], 10, 1000) == Result(100, 10.0, 9.9, None)


def test_few_episodes_do_not_count() -> None:
    lucky = [row(10, 1, 500.0), row(20, 99, 500.0)]
    assert result(lucky, 475, 1000).reached_at is None
    assert result([*lucky, row(30, 100, 500.0)], 475, 1000).reached_at == 30


@pytest.mark.parametrize(
    ("summary", "reached_at"),
    [({"ended_by": "stop-score", "agent_steps": 104}, 104),
     ({"ended_by": "stop-score", "agent_steps": 1004}, None),
     ({"ended_by": "stop-score", "agent_steps": "104"}, None),
     ({"ended_by": "total-steps", "agent_steps": 104}, None), ({}, None)],
)  # fmt: skip
def test_a_run_that_its_bar_has_ended_reached_it_whatever_its_last_row_says(
    summary: dict[str, Any], reached_at: int | None
) -> None:
    below = result([row(100, 100, 9.9), row(104, 101, 9.98)], 10, 1000)
    assert ended_at_the_bar(below, summary, 1000).reached_at == reached_at
    before = result([row(100, 100, 10.0), row(104, 101, 9.98)], 10, 1000)
    assert ended_at_the_bar(before, summary, 1000).reached_at == 100


def test_late_is_not_reached() -> None:
    late = [row(990, 100, 9.0), row(1001, 110, 20.0)]
    assert result(late, 10, 1000) == Result(1001, 100.1, 20.0, None)
    assert result(late, 10, 1001).reached_at == 1001


@pytest.mark.parametrize(
    "strange",
    [
        {"global_step": 0, "resumed_from": 0},
        {"global_step": -5, "wall_s": 1.0},
        {"global_step": "many", "wall_s": 1.0, "charts/episodes": 100},
    ],
)
def test_rows_that_are_none(strange: dict[str, Any]) -> None:
    assert result([strange | {"charts/episodic_return": 500.0}], 1, 1000) == Result()


def test_no_score_yet() -> None:
    assert result([row(10, 100, None), row(20, 100, float("nan"))], 1, 1000) == Result(20, 2.0)


# Tasks


def test_chosen_tasks() -> None:
    usual = [task.name for task in chosen([])]
    assert usual == [name for name, task in TASKS.items() if not task.slow]
    assert not any(name.startswith("pong") for name in usual)
    named = chosen(["pong-ppo", "cue-mlp", "pong-ppo"])
    assert [task.name for task in named] == ["pong-ppo", "cue-mlp"]
    with pytest.raises(UserError, match="did you mean cartpole-pqn"):
        chosen(["cartpole-pqm"])


@pytest.mark.parametrize("name", TASKS)
def test_command_of_a_task(name: str) -> None:
    words = learning.command_of(TASKS[name], 3, "cpu")
    assert words[0] == "run"
    config = parsed(*words[1:])
    assert (config.total_steps, config.seed) == (TASKS[name].steps, 3)


def test_a_control_differs_in_its_network_alone() -> None:
    """What it does not learn is told by the memory that it lacks, and by nothing else."""
    memory, control = TASKS["cue-gru"], TASKS["cue-mlp"]
    assert control.control
    assert control.flags == memory.flags.replace("mlp-gru", "mlp")
    assert (control.steps, control.bar) == (memory.steps, memory.bar)


# The command


def test_table_and_rows(stand_in: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    code = cli.main(["learning", "--task", "easy", "--seeds", "2,1", "--json", str(file)])
    assert code == 1  # seed 1 reaches 10 only
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "galamp: bench: easy, seed 2 ... yes, at 800 agent steps",
        "galamp: bench: easy, seed 1 ... no",
    ]
    lines = [" ".join(line.split()) for line in said.out.splitlines() if line.strip()]
    assert lines[0] == "mean return of the last 100 training episodes, on cpu"
    assert "easy 2 1,000 5 20.00 15 yes, at 800 agent steps" in lines
    assert "easy 1 1,000 5 10.00 15 no" in lines
    run = "bin/galamp run --env-id Easy-v0 --total-steps 1000 --seed 2 --device cpu"
    assert f"easy {run}" in lines
    assert f"command bin/bench learning --task easy --seeds 2,1 --json {file}" in lines
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["task"], first["seed"], first["run"]) == ("easy", 2, run)
    assert (first["agent_steps"], first["wall_s"], first["mean_return"]) == (1000, 5.0, 20.0)
    assert (first["bar"], first["reached"], first["reached_at"]) == (15, True, 800)
    assert (second["seed"], second["reached"], second["reached_at"]) == (1, False, None)
    assert first["machine"]["cores"] >= 1
    assert first["command"].startswith("bin/bench learning")


@pytest.mark.parametrize(
    ("words", "code", "outcome"),
    [
        ("--task easy --seeds 2", 0, "yes, at 800"),
        ("--task hard --seeds 1", 0, "no, and must not"),
        ("--task hard --seeds 2", 1, "but must not"),
        ("--seeds 2", 1, "but must not"),
    ],
)
def test_exit_code(
    stand_in: None, words: str, code: int, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["learning", *words.split()]) == code
    assert outcome in capsys.readouterr().out


def test_a_failure_stops_no_other(
    stand_in: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    assert cli.main(["learning", "--task", "easy", "--seeds", "7,2", "--json", str(file)]) == 1
    failed, other = map(json.loads, file.read_text().splitlines())
    assert failed["failure"] == "ended with code 3: galamp: no such thing"
    assert failed["reached"]  # it had come so far
    assert (other["failure"], other["reached"]) == ("", True)
    assert "failed: ended with code 3" in capsys.readouterr().out


def test_a_training_has_a_deadline(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(pids))
    clock = SimpleNamespace(monotonic=lambda: 60.5 if pids.exists() else 0.0)
    monkeypatch.setattr(learning, "time", clock)
    ended = learning.train(learning_tasks.TASKS["easy"], 9, "cpu", limit_s=60.0)
    assert ended.failure.startswith("still ran after 60 s")
    assert not ended.as_expected
    pid, folder = pids.read_text().split()
    wait_for(lambda: not alive(int(pid)), "the stand-in's end")
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--task cartpole", "expected one of cartpole-a2c"),
        ("--seeds 0", "'0': expected a whole number of at least 1"),
        ("--seeds 1,two", "'two': expected a whole number"),
        ("--limit-s 0", "expected seconds, more than 0"),
        ("--device gpu", "expected cpu, cuda or cuda:N"),
        ("--json /no/such/folder/rows", "cannot be written"),
    ],
)
def test_wrong_options(words: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = cli.main(["learning", *words.split()])
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    assert code == 2
    assert said.err.count("\n") == 1
    assert complaint in said.err


# Node 0's episodes score 20, those of the other node 0: after 110 of each the mean of all is 10.
TWO_NODES = r"""
import json, pathlib, sys
folder = pathlib.Path(dict(zip(sys.argv[1:], sys.argv[2:]))["--run-dir"])
for path, score in ((folder, 20), (folder.with_name(folder.name + "-node-1"), 0)):
    (path / "monitor").mkdir(parents=True)
    lines = [f"{score},10,{episode}" for episode in range(110)]
    text = "\n".join(['#{"t_start": 1000.0}', "r,l,t", *lines])
    (path / "monitor" / "0.monitor.csv").write_text(text + "\n" if score or not SILENT else "")
row = {"global_step": 900, "wall_s": 9.0, "charts/episodes": 110, "charts/episodic_return": 20.0}
(folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
(folder / "summary.json").write_text(json.dumps({"ended_by": "stop-score", "agent_steps": 900}))
"""


@pytest.mark.parametrize(("bar", "reached"), [(10, True), (11, False)])
def test_a_task_on_several_nodes_is_run_by_all_and_all_their_episodes_count(
    monkeypatch: pytest.MonkeyPatch, bar: float, reached: bool
) -> None:
    monkeypatch.setattr(learning, "NODES", (sys.executable, "-c", f"SILENT = False{TWO_NODES}"))
    monkeypatch.setattr(learning, "PROGRAM", (sys.executable, "-c", "raise SystemExit(1)"))
    one = learning.train(Task("two", "--env-id Easy-v0", 1000, bar, nodes=2), 1, "cpu", limit_s=60)
    assert one.failure == ""
    assert one.reached is reached
    assert one.result.mean_return == 10.0


def test_a_task_on_several_nodes_has_failed_if_one_has_no_episodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learning, "NODES", (sys.executable, "-c", f"SILENT = True{TWO_NODES}"))
    one = learning.train(Task("two", "--env-id Easy-v0", 1000, 20, nodes=2), 1, "cpu", limit_s=60)
    assert one.failure == "node 1 has written no episodes"
    assert not one.as_expected
    assert " 2 run --env-id Easy-v0 " in one.run


def test_a_real_run() -> None:
    flags = "--env-id CartPole-v1 --preset a2c-classic --learners 1 --log-every-s 0.2"
    one = learning.train(Task("real", flags, 4000, 5), 1, "cpu", limit_s=240)
    assert one.failure == ""
    assert one.reached
    assert one.result.agent_steps is not None
    assert one.result.reached_at is not None
    assert 4000 <= one.result.agent_steps < 5000
    assert 800 < one.result.reached_at <= one.result.agent_steps  # 100 episodes of 8 steps
    assert one.result.mean_return is not None
    assert 5 < one.result.mean_return < 500


# The memory task


def episode(environment: FirstCue, seed: int, answer: int | None) -> tuple[int, float, list[Any]]:
    """Play one; an answer of None repeats the cue. Returns the cue, the return, what was seen."""
    seen, _ = environment.reset(seed=seed)
    cue = int(seen.argmax())
    later, score, ended = [], 0.0, False
    while not ended:
        action = cue if answer is None else answer
        seen, reward, ended, truncated, _ = environment.step(np.int64(action))
        assert not truncated
        later.append(seen.tolist())
        score += reward
    return cue, score, later


def test_a_memory_is_enough() -> None:
    environment = FirstCue()
    check_env(environment, skip_render_check=True)
    episodes = [episode(environment, seed, None) for seed in range(50)]
    assert {cue for cue, _, _ in episodes} == set(range(CUES))
    assert {score for _, score, _ in episodes} == {1.0}
    assert {len(later) for _, _, later in episodes} == {DELAY + 2}


def test_without_a_memory_one_guesses() -> None:
    environment = FirstCue()
    guesses = [episode(environment, seed, 2) for seed in range(200)]
    assert all(score == (cue == 2) for cue, score, _ in guesses)
    assert all(later == guesses[0][2] for _, _, later in guesses)
    assert guesses[0][2][DELAY] == [0.0] * CUES + [1.0]  # asks for the answer
    assert not np.any(guesses[0][2][:DELAY])
    assert 0.15 < sum(score for _, score, _ in guesses) / 200 < 0.35


# MinAtar's games


class StandIn:
    """What `minatar.gym` has: minatar is under the GPL, and not installed for tests."""

    def __init__(self, game: str, *, use_minimal_action_set: bool) -> None:
        self.made_of = game, use_minimal_action_set


@pytest.mark.parametrize("name", ["asterix", "breakout", "freeway", "seaquest", "space_invaders"])
def test_minatars_games_have_the_actions_that_they_need(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "minatar", ModuleType("minatar"))
    monkeypatch.setitem(sys.modules, "minatar.gym", SimpleNamespace(BaseEnv=StandIn))  # type: ignore[arg-type]
    assert getattr(minatar, name)().made_of == (name, True)


def test_without_minatar_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minatar", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match="pip install --no-deps minatar"):
        minatar.breakout()


def test_every_game_of_a_task_is_there() -> None:
    games = {task.name: parsed(*learning.command_of(task, 1, "cpu")[1:]) for task in TASKS.values()}
    for name, config in games.items():
        module, _, factory = config.environment.env_id.partition(":")
        if module == minatar.__name__:
            assert callable(getattr(minatar, factory)), name


@pytest.mark.parametrize("game", ["breakout", "asterix"])
def test_algorithms_of_a_game_get_as_many_steps(game: str) -> None:
    tasks = [TASKS[f"minatar-{game}-{algorithm}"] for algorithm in ("a2c", "ppo", "pqn")]
    assert len({task.steps for task in tasks}) == 1


@pytest.mark.parametrize("game", ["pong", "minatar-breakout"])
def test_four_learners_on_one_node_and_on_two_have_the_same_to_do(game: str) -> None:
    one, two = (TASKS[f"{game}-a2c-{shape}"] for shape in ("1x4", "2x2"))
    assert (one.nodes, two.nodes) == (1, 2)
    assert (one.steps, one.bar, one.slow) == (two.steps, two.bar, True)
    runs = [parsed(*learning.command_of(task, 1, "cpu")[1:]) for task in (one, two)]
    assert [run.resources.learners for run in runs] == [4, 2]
