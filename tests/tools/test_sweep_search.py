"""`galamp sweep` with a search: drawing, telling, going on, by a fake program; and a real one."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from galamp.cli.main import build_parser, main
from galamp.cli.run_config import config_from
from galamp.cli.sweep_file import sweep_from
from galamp.core.config import from_dict, to_dict
from galamp.core.errors import UserError
from galamp.supervision.signals import Signals
from galamp.tools.sweep import checking
from galamp.tools.sweep.ledger import Ledger
from galamp.tools.sweep.packing import Packing
from galamp.tools.sweep.planned import PlannedRun, Sweep
from galamp.tools.sweep.runner import Runner
from galamp.tools.sweep.search import FILE, OPEN, TOLD, WORTHLESS, Searcher, Trial
from galamp.tools.sweep.search_report import longer
from tests.support.engine import galamp
from tests.support.sweeps import made
from tests.tools.test_sweep import Told

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None,
    reason="optuna is not installed: pip install 'galamp[search]'",
)

TEXT = """
total_steps = 1000
[environment]
env_id = "CartPole-v1"
[resources]
device = "cpu"
learners = 1
simulator_workers = 1
[sweep]
seeds = [1, 2]
[search]
trials = 6
gamma = {low = 0.5, high = 0.99}
num-steps = {choices = [5, 20]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "try.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def sweep(file: Path) -> Sweep:
    return sweep_from(file)


FINISHED = {
    "status": "finished", "start": 1, "ended_by": "total-steps", "agent_steps": 1000, "wall_s": 1.0,
}  # fmt: skip
ROW = '{"start": 1, "global_step": 1000}'
Score = Callable[[PlannedRun], float | None]


def worth(run: PlannedRun) -> float | None:
    """The nearer to a discount of 0.7, the better; the second seed has more."""
    return 100.0 - abs(run.config.algorithm.gamma - 0.7) + run.seed


def finish(ledger: Ledger, run: PlannedRun, score: float | None) -> None:
    """Write a run that has ended with its score."""
    path = ledger.path(run)
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "metrics.jsonl").write_text(f"{ROW}\n")
    summary = FINISHED | {"mean_return_100": score}
    (path / "summary.json").write_text(json.dumps(summary))


def ran(
    sweep: Sweep, tmp_path: Path, told: Told, score: Score = worth, script: str = "", jobs: int = 1
) -> tuple[int, list[Trial]]:
    """Run a search whose runs end at once with a score, after a script: $1 is their folder."""
    ledger = made(tmp_path)
    searcher = Searcher(sweep, ledger)
    config = json.dumps(to_dict(from_dict({"environment": {"env_id": "CartPole-v1"}})))

    def fake(run: PlannedRun, folder: Path, resume: bool) -> list[object]:
        summary = FINISHED | {"mean_return_100": score(run)}
        end = (
            f'{script}\nmkdir $1; echo "$2" > $1/config.json; echo "$3" > $1/summary.json; '
            'echo "$4" > $1/metrics.jsonl'
        )
        return ["/bin/sh", "-c", end, "sh", folder, config, json.dumps(summary), ROW]

    packing = Packing(sorted(os.sched_getaffinity(0)), jobs=jobs)
    code = Runner(ledger, packing, told, command=fake).run(
        (), cast(Signals, told), searcher.more
    )  # fmt: skip
    searcher.settle()
    return code, searcher.trials()


def begun(told: Told) -> list[object]:
    return [line[1] for line in told.lines if line[0] == "started"]


def test_a_trial_is_worth_the_mean_of_its_runs_and_all_trials_are_run_once(
    sweep: Sweep, tmp_path: Path
) -> None:
    told = Told()
    code, trials = ran(sweep, tmp_path, told)
    assert (code, [trial.state for trial in trials]) == (0, [TOLD] * 6)
    for trial in trials:
        assert 0.5 <= trial.params["gamma"] <= 0.99
        assert trial.params["num-steps"] in (5, 20)
        assert trial.score == pytest.approx(101.5 - abs(trial.params["gamma"] - 0.7))
        for run in trial.runs:
            assert run.config.algorithm.gamma == trial.params["gamma"]
            assert run.settings["algorithm.num_steps"] == trial.params["num-steps"]
    assert begun(told) == [f"a2c-trial-{n}-CartPole-v1-{seed}" for n in range(6) for seed in (1, 2)]
    again = Told()
    assert ran(sweep, tmp_path, again) == (0, trials)
    assert begun(again) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_later_trials_are_drawn_where_earlier_ones_were_good(
    file: Path, tmp_path: Path, sign: int
) -> None:
    """The first ten are drawn at random."""
    file.write_text(TEXT.replace("trials = 6", "trials = 25").replace("[1, 2]", "[1]"))
    ledger = made(tmp_path)
    searcher = Searcher(sweep_from(file), ledger)
    while starts := searcher.more():
        (run,) = (start.run for start in starts)
        ledger.started(run)
        finish(ledger, run, sign * run.config.algorithm.gamma)
        ledger.ended(run, 0)
    drawn = [sign * trial.params["gamma"] for trial in searcher.trials()]
    assert sum(drawn[-10:]) > sum(drawn[:10]) + 0.5


def test_a_search_that_was_killed_goes_on_with_the_trials_that_were_under_way(
    sweep: Sweep, tmp_path: Path
) -> None:
    """One run of the open trial is finished, one is not; what was being written is torn."""
    whole = tmp_path / "whole"
    whole.mkdir()
    _, straight = ran(sweep, whole, Told())
    ledger = made(tmp_path)
    killed = Searcher(sweep, ledger)
    first = killed.more()
    assert [start.run.name for start in first] == [f"a2c-trial-0-CartPole-v1-{n}" for n in (1, 2)]
    for start in first:
        ledger.started(start.run)
    finish(ledger, first[0].run, worth(first[0].run))
    with (ledger.folder / FILE).open("a") as journal:
        journal.write('{"op_code":4,"work')
    told = Told()
    code, trials = ran(sweep, tmp_path, told)
    assert code == 0
    assert begun(told)[:2] == ["a2c-trial-0-CartPole-v1-2", "a2c-trial-1-CartPole-v1-1"]
    assert trials == straight


def test_a_trial_that_a_kill_has_left_half_drawn_is_not_run(sweep: Sweep, tmp_path: Path) -> None:
    ledger = made(tmp_path)
    Searcher(sweep, ledger).more()
    journal = ledger.folder / FILE
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # the second of two settings
    told = Told()
    code, trials = ran(sweep, tmp_path, told)
    assert (code, [trial.number for trial in trials]) == (0, [1, 2, 3, 4, 5, 6])
    assert "a2c-trial-0-CartPole-v1-1" not in begun(told)


def test_after_a_signal_the_same_command_does_what_is_left(sweep: Sweep, tmp_path: Path) -> None:
    at = tmp_path / "at"
    script = f"echo >> {at}; if [ $(wc -l < {at}) = 4 ]; then touch {at}.last; sleep 600; fi"
    told = Told((Path(f"{at}.last").exists, signal.SIGINT))
    code, trials = ran(sweep, tmp_path, told, script=script)
    assert (code, [trial.state for trial in trials]) == (130, [TOLD, OPEN])
    again = Told()
    code, now = ran(sweep, tmp_path, again)
    assert (code, [trial.state for trial in now]) == (0, [TOLD] * 6)
    assert begun(again)[:2] == ["a2c-trial-1-CartPole-v1-2", "a2c-trial-2-CartPole-v1-1"]
    assert [trial.params for trial in now[:2]] == [trial.params for trial in trials]


def test_a_trial_of_a_failed_run_stays_open_and_is_tried_again(
    sweep: Sweep, tmp_path: Path
) -> None:
    told = Told()
    script = "case $1 in *trial-2-CartPole-v1-1) exit 70;; esac"
    code, trials = ran(sweep, tmp_path, told, script=script)
    assert (code, [trial.number for trial in trials if trial.state == OPEN]) == (70, [2])
    assert len(begun(told)) == 12
    again = Told()
    code, trials = ran(sweep, tmp_path, again)
    assert (code, {trial.state for trial in trials}) == (0, {TOLD})
    assert begun(again) == ["a2c-trial-2-CartPole-v1-1"]


def test_a_trial_whose_runs_have_no_score_is_worth_nothing(sweep: Sweep, tmp_path: Path) -> None:
    code, trials = ran(sweep, tmp_path, Told(), lambda run: worth(run) if run.seed == 1 else None)
    assert (code, {trial.state for trial in trials}) == (0, {WORTHLESS})
    assert {trial.score for trial in trials} == {None}


def test_a_trial_is_drawn_when_there_is_room_for_it(sweep: Sweep, tmp_path: Path) -> None:
    """Of three at once, runs of two trials are under way, and the third trial is not drawn."""
    at = tmp_path / "at"

    def three_run() -> bool:
        return len(list(tmp_path.glob("at*"))) == 3

    told = Told((three_run, signal.SIGINT))
    code, trials = ran(sweep, tmp_path, told, script=f"touch {at}$$; sleep 600", jobs=3)
    assert (code, len(begun(told)), len(trials)) == (130, 3, 2)


def test_each_arm_is_searched_for_itself(file: Path, tmp_path: Path) -> None:
    arms = "[sweep.grid]\n'gossip.method' = ['single', 'independent']\n[search]"
    file.write_text(TEXT.replace("[search]", arms).replace("trials = 6", "trials = 2"))
    code, trials = ran(sweep_from(file), tmp_path, Told())
    assert code == 0
    assert [(trial.arm, trial.number) for trial in trials] == [
        (f"method-{method}", n) for method in ("single", "independent") for n in (0, 1)
    ]
    assert trials[0].params != trials[2].params


def test_what_is_drawn_follows_from_the_sampler_seed(file: Path, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        file.write_text(TEXT.replace("trials = 6", f"trials = 2\nsampler-seed = {seed}"))
        _, trials = ran(sweep_from(file), tmp_path / name, Told())
        drawn.append([trial.params for trial in trials])
    assert drawn[0] == drawn[1] != drawn[2]


def test_more_trials_may_be_added_but_ranges_games_and_seeds_stay(
    file: Path, sweep: Sweep, tmp_path: Path
) -> None:
    ran(sweep, tmp_path, Told())
    file.write_text(TEXT.replace("trials = 6", "trials = 7"))
    told = Told()
    assert len(ran(sweep_from(file), tmp_path, told)[1]) == 7
    assert len(begun(told)) == 2
    for old, new, wrong in (
        ("high = 0.99", "high = 0.9", r"search\.gamma: was 0\.5 to 0\.99, is 0\.5 to 0\.9"),
        ("[1, 2]", "[1, 3]", "seeds: was 1, 2, is 1, 3"),
        ("1000", "2000", "total_steps: was 1000, is 2000"),
    ):
        file.write_text(TEXT.replace(old, new))
        with pytest.raises(UserError, match=wrong):
            Searcher(sweep_from(file), made(tmp_path))


def test_a_damaged_journal_is_told_in_a_line(sweep: Sweep, tmp_path: Path) -> None:
    ledger = made(tmp_path)
    for text in ("no journal\nat all\n", '{"op_code":77}\n', "[]\n", '{"op_code":0}\n'):
        (ledger.folder / FILE).write_text(text)
        with pytest.raises(UserError, match=r"search\.journal: damaged: .*another --dir"):
            Searcher(sweep, ledger)


def test_the_command_at_the_end_has_the_settings_of_the_trial(sweep: Sweep, tmp_path: Path) -> None:
    _, trials = ran(sweep, tmp_path, Told())
    run = trials[3].runs[0]
    words = shlex.split(longer(run))
    assert words[:2] == ["galamp", "run"]
    config = config_from(build_parser(words[1:]).parse_args(words[1:]))
    assert config.total_steps == 10_000
    assert config.algorithm == run.config.algorithm
    assert (config.seed, config.environment) == (1, run.config.environment)


# The command


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment is tried, and torch is not loaded."""
    monkeypatch.setattr(checking, "Survey", lambda: lambda run: None)


@pytest.mark.usefixtures("unchecked")
def test_a_dry_run_says_what_is_searched_and_makes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    words = ["sweep", str(file), "--dir", str(folder), "--dry-run"]
    assert main(words) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["gamma", "0.5", "to", "0.99"] in lines
    assert " ".join(lines[-1]) == "6 trials, 2 runs each; 12 runs to do"
    assert not folder.exists()
    made(tmp_path).save()
    ran(sweep_from(file), tmp_path, Told())
    before = sorted(path.stat().st_mtime_ns for path in folder.iterdir())
    assert main([*words, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (len(listed["trials"]), listed["runs_to_do"]) == (6, 0)
    assert sorted(path.stat().st_mtime_ns for path in folder.iterdir()) == before


@pytest.mark.usefixtures("unchecked")
def test_the_end_is_a_table_of_the_best_trials_and_the_command_of_the_best(
    file: Path, sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, trials = ran(sweep, tmp_path, Told())
    words = ["sweep", str(file), "--dir", str(tmp_path / "runs"), "--quiet"]
    assert main(words) == 0
    out = capsys.readouterr().out
    best_first = sorted(trials, key=lambda trial: -(trial.score or 0))
    rows = [line.split() for line in out.splitlines() if line.split()[:1] and
            line.split()[0].isdigit() and len(line.split()) == 4]  # fmt: skip
    assert [row[0] for row in rows] == [str(trial.number) for trial in best_first]
    best = best_first[0]
    assert rows[0][2:] == [f"{best.params['gamma']:.4g}", str(best.params["num-steps"])]
    assert f"--gamma={best.params['gamma']!r}" in out
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best"] == [
        {"arm": "a2c", "trial": best.number, "score": best.score, "settings": best.params,
         "command": longer(best.runs[0])}
    ]  # fmt: skip
    assert [run["state"] for run in result["trials"][0]["runs"]] == ["finished"] * 2


def test_a_corner_that_cannot_be_run_is_told_before_anything_starts(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def check(run: PlannedRun) -> None:
        if run.config.algorithm.gamma == 0.99:
            raise UserError("alas")

    monkeypatch.setattr(checking, "Survey", lambda: check)
    assert main(["sweep", str(file), "--dir", str(tmp_path / "runs"), "--quiet"]) == 2
    said = "a2c with gamma 0.99, num-steps 20, CartPole-v1: alas"
    assert capsys.readouterr().err.count(said) == 1
    assert not list((tmp_path / "runs").glob("a2c*"))


def test_without_optuna_a_line_says_what_to_install_before_anything_is_made(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: None if name == "optuna" else real(name, *of)
    )
    assert main(["sweep", str(file), "--dir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs optuna, which is not installed: " in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_real_search_trains_its_trials_and_has_nothing_left_to_do(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TEXT.replace("1000", "200").replace("[1, 2]", "[1]").replace("trials = 6", "trials = 3")
    file.write_text(text)
    folder = tmp_path / "runs"
    done = galamp("sweep", file, "--dir", folder, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [trial["state"] for trial in result["trials"]] == [TOLD] * 3
    scores = [trial["score"] for trial in result["trials"]]
    assert scores == [trial["runs"][0]["score"] for trial in result["trials"]]
    assert result["best"][0]["score"] == max(scores) > 0
    for trial in result["trials"]:
        config = json.loads((folder / trial["runs"][0]["run"] / "config.json").read_text())
        assert config["algorithm"]["gamma"] == trial["settings"]["gamma"]
        assert config["algorithm"]["num_steps"] == trial["settings"]["num-steps"]
    assert main(["sweep", str(file), "--dir", str(folder), "--dry-run"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("; 0 runs to do")
