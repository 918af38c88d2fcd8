"""The section `search` of a sweep's file: what is searched, and what is refused before a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from galamp.cli.sweep_file import sweep_from
from galamp.core.errors import UserError
from galamp.tools.sweep.planned import Sweep
from galamp.tools.sweep.space import Range

LR = "learning-rate = {low = 1e-4, high = 1e-2, log = true}\n"
TRIALS = "[search]\ntrials = 4\n"
GAMMA = "gamma = {low = 0.9, high = 1}\n"


def searched(tmp_path: Path, text: str, *allowed: str) -> Sweep:
    file = tmp_path / "try.toml"
    file.write_text(text)
    return sweep_from(file, allowed)


def test_a_search_has_ranges_of_flags_by_their_names(tmp_path: Path) -> None:
    sweep = searched(
        tmp_path,
        f"[sweep]\nseeds = 2\n{TRIALS}sampler-seed = 7\n{LR}"
        "num_steps = {choices = [5, 20]}\nenvironment.num_envs = {low = '1k', high = 2e3}\n"
        "'gossip.method' = {choices = ['single', 'gossip']}\n",
    )
    search = sweep.search
    assert search is not None
    assert (search.trials, search.sampler_seed, len(sweep.runs)) == (4, 7, 2)
    assert search.ranges == (
        Range("learning-rate", ("algorithm", "learning_rate"), 1e-4, 1e-2, log=True),
        Range("num-steps", ("algorithm", "num_steps"), choices=(5, 20)),
        Range("num-envs", ("environment", "num_envs"), 1000, 2000),
        Range("method", ("gossip", "method"), choices=("single", "gossip")),
    )
    assert searched(tmp_path, "[sweep]\nseeds = 2\n").search is None


def test_the_corners_of_a_search_have_every_end_and_every_choice(tmp_path: Path) -> None:
    search = searched(tmp_path, f"{TRIALS}{LR}num-steps = {{choices = [5, 20, 40]}}\n").search
    assert search is not None
    assert search.corners() == [
        {"learning-rate": 1e-4, "num-steps": 5},
        {"learning-rate": 1e-2, "num-steps": 20},
        {"learning-rate": 1e-2, "num-steps": 40},
    ]


def test_flags_are_those_of_every_arm(tmp_path: Path) -> None:
    arms = "[[sweep.arm]]\nname='a'\npreset='cartpole'\n[[sweep.arm]]\nname='b'\n"
    epochs = f"{TRIALS}update-epochs = {{low = 1, high = 4}}\n"
    assert searched(tmp_path, f"[sweep]\npreset = 'cartpole'\n{epochs}").search
    with pytest.raises(UserError, match=r"unknown flag update-epochs.*all that a2c has"):
        searched(tmp_path, arms + epochs)


def test_code_of_the_users_is_searched_only_where_the_command_line_names_it(
    tmp_path: Path,
) -> None:
    text = f"{TRIALS}network = {{choices = ['mlp', 'mine.nets:make']}}\n"
    with pytest.raises(UserError, match=r"model\.network mine\.nets:make .*--allow mine"):
        searched(tmp_path, text)
    assert searched(tmp_path, text, "mine.nets:make").search


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("search = 3", "search: expected a section"),
        (f"[search]\n{LR}", "search.trials: not given; expected a whole number from 1"),
        (f"[search]\ntrials = 0\n{LR}", "search.trials: 0; expected a whole number from 1"),
        (f"[search]\ntrials = 'a'\n{LR}", "search.trials: a; expected"),
        (f"{TRIALS}sampler-seed = -1\n{LR}", "search.sampler-seed: -1; expected"),
        (TRIALS, "search: names no flag; expected ranges"),
        (f"{TRIALS}learning-rat = {{low = 1, high = 2}}",
         r"unknown flag learning-rat .did you mean learning-rate"),
        (f"{TRIALS}algoritm.gamma = {{low = 0.9, high = 1}}", r"unknown flag algoritm\.gamma"),
        (f"{TRIALS}gamma = {{low = 1, high = 0.9}}", r"search.gamma: low 1\.0 is above high 0\.9"),
        (f"{TRIALS}gamma = {{low = 0, high = 1, log = true}}",
         r"search.gamma: low 0\.0: expected a number above 0 where log is true"),
        (f"{TRIALS}gamma = {{low = 0.9, high = 2}}", r"search.gamma 2\.0: expected a number from"),
        (f"{TRIALS}gamma = {{low = 0.9}}", "search.gamma: high is not given"),
        (f"{TRIALS}gamma = {{low = 0.9, high = 1, lag = true}}",
         "search.gamma: unknown lag .did you mean"),
        (f"{TRIALS}gamma = {{low = 0.9, high = 1, log = 1}}", "log 1: expected true or false"),
        (f"{TRIALS}gamma = [0.9, 1]", "search.gamma: .*expected {low"),
        (f"{TRIALS}gamma = {{choices = []}}", "choices .*expected a list of values"),
        (f"{TRIALS}gamma = {{choices = [1, 1]}}", "one is named twice"),
        (f"{TRIALS}gamma = {{choices = [0.9], low = 0.9}}", "choices and a range"),
        (f"{TRIALS}gamma = {{choices = ['x']}}", "search.gamma x: expected a number"),
        (f"{TRIALS}topology = {{low = 1, high = 2}}", "search.topology: is no number"),
        (f"{TRIALS}wrapper = {{choices = ['a:b']}}", "is a list of texts"),
        (f"{TRIALS}{GAMMA}algorithm.gamma = {{low = 0.9, high = 1}}", "search.gamma: named twice"),
        (f"{TRIALS}seed = {{low = 1, high = 3}}", "search.seed: is not searched"),
        (f"{TRIALS}learners = {{low = 1, high = 3}}", "search.learners: is not searched"),
        (f"{TRIALS}quiet = {{choices = [true]}}", r"report\.quiet: the sweep gives it"),
        (f"[sweep.grid]\n'algorithm.gamma' = [0.9]\n{TRIALS}{GAMMA}",
         r"search.gamma: is in \[sweep\.grid\], too; leave out one"),
        (f"[[sweep.arm]]\nalgorithm.gamma = 0.9\n{TRIALS}{GAMMA}",
         r"search.gamma: is in \[\[sweep\.arm\]\], too; leave out one"),
        (f"[sweep]\nseeds = 20\n[search]\ntrials = 1000\n{LR}", "20,000 runs, more than 10,000"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_told_in_a_line(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong) as error:
        searched(tmp_path, text)
    (line,) = error.value.problems
    assert line.startswith(f"{tmp_path / 'try.toml'}: ")


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        searched(tmp_path, "[search]\ngama = {low = 1, high = 2}\ngamma = {low = 2, high = 1}\n")
    assert len(error.value.problems) == 3
