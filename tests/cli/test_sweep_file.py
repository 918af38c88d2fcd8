"""Files of `galamp sweep`: which runs they name, and what is refused before any starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from galamp.cli.main import build_parser
from galamp.cli.run_config import config_from
from galamp.cli.sweep_file import sweep_from
from galamp.core.errors import UserError
from galamp.tools.sweep.planned import Sweep, command

CARTPOLE = "[environment]\nenv_id = 'CartPole-v1'\n"


def sweep_of(tmp_path: Path, text: str, *allowed: str, jobs: int = 0) -> Sweep:
    file = tmp_path / "try.toml"
    file.write_text(text)
    return sweep_from(file, allowed, jobs)


def names(sweep: Sweep) -> list[str]:
    return [run.name for run in sweep.runs]


def test_every_combination_of_arms_grid_environments_and_seeds_is_run(tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path,
        "[sweep]\nseeds = [3, 5]\ngames = ['pong', 'CartPole-v1']\n"
        "[sweep.grid]\n'algorithm.gamma' = [0.9, 0.99]\n"
        "[[sweep.arm]]\nname = 'ring'\ngossip.topology = 'ring'\n"
        "[[sweep.arm]]\nname = 'alone'\nseeds = 1\n'gossip.method' = 'single'\n",
    )
    assert sweep.name == "try"
    assert sweep.arms == [
        "ring-gamma-0.9", "ring-gamma-0.99", "alone-gamma-0.9", "alone-gamma-0.99"
    ]  # fmt: skip
    assert sweep.games == ["ALE/Pong-v5", "CartPole-v1"]
    assert len(sweep.runs) == 2 * 2 * 2 + 2 * 2 * 1
    assert names(sweep)[:3] == [
        "ring-gamma-0.9-Pong-v5-3", "ring-gamma-0.9-Pong-v5-5", "ring-gamma-0.9-CartPole-v1-3"
    ]  # fmt: skip
    last = sweep.runs[-1]
    assert (last.seed, last.env_id, last.config.algorithm.gamma) == (1, "CartPole-v1", 0.99)
    assert (last.config.gossip.method, last.config.seed) == ("single", 1)


def test_runs_go_seed_by_seed_if_the_file_says_so(tmp_path: Path) -> None:
    """An arm with fewer seeds is done sooner; whatever is left, all have as many."""
    sweep = sweep_of(
        tmp_path,
        "[sweep]\norder = 'seeds'\nseeds = [7, 5]\ngames = ['CartPole-v1', 'Acrobot-v1']\n"
        "[[sweep.arm]]\nname = 'a'\n"
        "[[sweep.arm]]\nname = 'b'\nseeds = [9]\n'algorithm.gamma' = 0.9\n",
    )
    assert names(sweep) == [
        "a-CartPole-v1-7", "a-Acrobot-v1-7", "b-CartPole-v1-9", "b-Acrobot-v1-9",
        "a-CartPole-v1-5", "a-Acrobot-v1-5",
    ]  # fmt: skip
    assert sweep.arms == ["a", "b"]


def test_preset_is_below_the_file_below_the_grid_below_the_arm(tmp_path: Path) -> None:
    text = (
        f"total_steps = 7\n{CARTPOLE}num_envs = 3\n[sweep]\npreset = 'cartpole'\n"
        "[sweep.grid]\nalgorithm.gamma = [0.5]\nalgorithm.num_steps = [8]\n"
        "[[sweep.arm]]\n'algorithm.num_steps' = 64\nalgorithm.gae_lambda = 0.7\n"
    )
    (run,) = sweep_of(tmp_path, text).runs
    algorithm = run.config.algorithm
    assert (algorithm.algorithm, algorithm.gamma, algorithm.num_steps) == ("ppo", 0.5, 64)
    assert (run.settings["algorithm.gae_lambda"], run.config.environment.num_envs) == (0.7, 3)
    assert (run.config.total_steps, run.settings["algorithm.update_epochs"]) == (7, 20)


@pytest.mark.parametrize(
    "grid",
    [
        "algorithm = [{gamma = 0.5}, {gamma = 0.9}]",
        "algorithm = [{gamma = 0.5}, {gamma = 0.9}]\n'algorithm.learning_rate' = [1e-3]",
        "algorithm.gamma = [0.5, 0.9]",
    ],
)
def test_what_one_arm_sets_is_not_set_in_the_next(tmp_path: Path, grid: str) -> None:
    """A grid may vary tables; each arm is put on top of them anew."""
    arms = "[[sweep.arm]]\nname='a'\nalgorithm.ent_coef = 0.1\n[[sweep.arm]]\nname='b'\n"
    runs = sweep_of(tmp_path, f"{CARTPOLE}[sweep.grid]\n{grid}\n{arms}").runs
    assert [(run.arm[0], run.config.algorithm.gamma) for run in runs] == [
        ("a", 0.5), ("a", 0.9), ("b", 0.5), ("b", 0.9)
    ]  # fmt: skip
    given = [run.settings.get("algorithm.ent_coef") for run in runs]
    assert given == [0.1, 0.1, None, None]
    assert not any("ent" in run.name for run in runs[2:])


def test_a_run_without_anything_varied_is_called_by_its_algorithm(tmp_path: Path) -> None:
    assert names(sweep_of(tmp_path, f"seed = 4\n{CARTPOLE}")) == ["a2c-CartPole-v1-4"]


def test_the_command_of_a_run_gives_the_very_settings_of_the_file(tmp_path: Path) -> None:
    text = (
        f"total_steps = 1000\n{CARTPOLE}[algorithm]\nlearning_rate = 1.2345678901234567e-4\n"
        "[gossip]\nsync = true\n[resources]\npin = false\n[stop]\nmax_time = '2h'\n"
        "[sweep]\npreset = 'ppo-cartpole'\n"
    )
    (run,) = sweep_of(tmp_path, text).runs
    words = command(run, tmp_path / "folder", resume=False)[3:]
    args = build_parser(words).parse_args(words)
    config = config_from(args)
    assert (config.report.run_dir, config.report.quiet) == (str(tmp_path / "folder"), True)
    assert config.algorithm == run.config.algorithm
    for part in ("environment", "gossip", "resources", "stop", "seed", "total_steps"):
        assert getattr(config, part) == getattr(run.config, part)


@pytest.mark.parametrize("bound", ["3", "'inf'", "0"])
def test_lock_step_wins_over_a_bound_of_staleness_as_in_any_other_file(
    tmp_path: Path, bound: str
) -> None:
    text = (
        f"{CARTPOLE}[gossip]\nmax_staleness = {bound}\n"
        "[sweep.grid]\n'gossip.sync' = [true, false]\n"
    )
    synchronous, free = sweep_of(tmp_path, text).runs
    for run in (synchronous, free):
        words = command(run, tmp_path / "folder", resume=False)[3:]
        config = config_from(build_parser(words).parse_args(words))
        assert config.gossip.sync is run.config.gossip.sync
    assert config.gossip.max_staleness == free.config.gossip.max_staleness


def test_code_of_the_users_is_run_only_where_the_command_line_names_it(tmp_path: Path) -> None:
    text = f"{CARTPOLE}[model]\nnetwork = 'mine.nets:make'\n"
    with pytest.raises(UserError, match=r"model\.network mine\.nets:make .*--allow mine"):
        sweep_of(tmp_path, text)
    (run,) = sweep_of(tmp_path, text, "mine.nets:make").runs
    assert command(run, tmp_path, resume=True)[-2:] == [
        f"--resume={tmp_path}", "--network=mine.nets:make"
    ]  # fmt: skip


def test_a_run_has_a_core_per_learner_or_as_many_as_the_file_says(tmp_path: Path) -> None:
    learners = f"{CARTPOLE}[resources]\nlearners = 3\n"
    assert [run.cores for run in sweep_of(tmp_path, learners).runs] == [3]
    arms = "[sweep]\ncores = 2\n[[sweep.arm]]\nname='a'\n[[sweep.arm]]\nname='b'\ncores = 5\nseed=9"
    assert [run.cores for run in sweep_of(tmp_path, learners + arms).runs] == [2, 5]
    assert [run.cores for run in sweep_of(tmp_path, CARTPOLE).runs] == [0]


@pytest.mark.parametrize(
    ("wrong", "arms"),
    [
        ("[algorithm]\ngama = 0.9", ""),
        ("[report]\nkeep_checkpoints = 1", ""),
        ("[algorithm]\ngama = 0.9", "algorithm.algorithm = 'ppo'"),
    ],
)
def test_what_is_wrong_for_every_arm_is_told_once(tmp_path: Path, wrong: str, arms: str) -> None:
    """It names an arm only where that has another algorithm, and so other settings."""
    given = "\n".join(f"[[sweep.arm]]\nname = '{name}'\n{arms}" for name in "abcd")
    with pytest.raises(UserError) as error:
        sweep_of(tmp_path, f"{wrong}\n{given}")
    assert len(error.value.problems) == (4 if arms else 1)
    assert all((": arm " in line) is bool(arms) for line in error.value.problems)


def test_games_are_trained_in_place_of_a_presets_environment(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "[sweep]\npreset = 'ppo-acrobot'\ngames = ['Pong', 'CartPole-v1']")
    assert sweep.games == ["ALE/Pong-v5", "CartPole-v1"]
    assert [run.config.environment.env_id for run in sweep.runs] == sweep.games
    assert sweep_of(tmp_path, "[sweep]\npreset = 'ppo-acrobot'").games == ["Acrobot-v1"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[sweep", "not TOML"),
        ("sweep = 3", "expected a section"),
        (
            "[sweep]\nseed = 1",
            r"sweep\.seed .did you mean seeds.*expected name, preset, order, jobs",
        ),
        ("[sweep]\njobs = -1", r"sweep\.jobs -1: expected"),
        ("[sweep]\norder = 'games'", r"sweep\.order games: expected .*arms.*seeds"),
        ("[sweep]\nseeds = [1, 'a']", "seeds .*expected whole numbers"),
        ("[sweep]\nseeds = [1, 1]", "2 runs would be called"),
        ("seed = 1\n[sweep]\nseeds = 2", "both give seeds"),
        ("[sweep]\ngames = []", "games .*expected names"),
        ("[sweep]\ngames = ['Pogn']", "unknown"),
        (f"{CARTPOLE}[sweep]\ngames = ['Pong']", "both name environments"),
        ("[sweep]\ngrid = 3", "expected a table of lists"),
        ("[sweep.grid]\n'algorithm.gamma' = 0.9", "expected a list of values"),
        ("[sweep.grid]\n'algorithm.gama' = [0.9]", r"unknown setting algorithm\.gama"),
        ("[sweep.grid]\n'algorithm.gamma' = [0.9, 2]", r"algorithm\.gamma 2\.0: expected"),
        ("[sweep]\narm = 3", "expected tables"),
        ("[[sweep.arm]]\nname = 3", "name: expected a text"),
        ("[[sweep.arm]]\nname='a'\n[[sweep.arm]]\nname='b'", "are the same run"),
        ("[[sweep.arm]]\npreset = 'cartpole'\nalgorithm.algorithm='a2c'", "preset cartpole is of"),
        ("[[sweep.arm]]\ncores = 'x'", "cores: expected a number"),
        ("[[sweep.arm]]\ncores = 0", "cores: expected a number from 1"),
        ("[sweep]\npreset = 'x'", "preset x: expected one of"),
        ("[algorithm]\nalgorithm = 'x'", r"algorithm\.algorithm x: expected one of"),
        ("[report]\nrun_dir = 'x'", r"report\.run_dir: the sweep gives it"),
        ("[resources]\ndevice = 'cuda:1'", r"resources\.device cuda:1: expected auto, cpu or cuda"),
        ("[resources]\nlearners = 'auto'", "give a number"),
        ("[sweep]\njobs = 2", r"resources\.learners: not given"),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong) as error:
        sweep_of(tmp_path, text)
    assert all("try.toml: " in line for line in error.value.problems)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        sweep_of(
            tmp_path,
            "[[sweep.arm]]\nname = 'a'\nalgorithm.gamma = 2\n[[sweep.arm]]\nname = 'b'\nx = 1\n",
        )
    assert len(error.value.problems) == 2
