"""`bin/study`: what its runs stand beside: published scores, random actions, another library."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from galamp.cli import study as command
from galamp.cli.study_files import sweep_of
from galamp.core.errors import EXIT_OK, UserError
from galamp.core.machine.machine import processor_name
from galamp.tools.study import (
    plan,
    published,
    random_actions,
    stable_baselines3,
)
from galamp.tools.study.kept import kept_peers
from galamp.tools.study.report import report
from galamp.tools.study.stable_baselines3 import PeerRun
from galamp.tools.study.study import Study
from galamp.tools.study.text_report import show
from tests.support.study_files import results
from tests.support.study_rows import (
    row,
)

__all__ = ["results"]


def test_every_atari_run_stands_beside_a_published_score() -> None:
    """Pong's human reaches 14.6, random actions -20.7 (Wang et al. 2016): 100 and 0 percent."""
    runs = sweep_of("atari").runs
    assert len(runs) == 2 * len(published.GAMES)
    of = [row(run.arm, plan.game_of(run.env_id), run.seed, 14.6, final=14.6) for run in runs]
    found = {(each["arm"], each["game"]): each for each in published.beside(of)}
    assert len(found) == len(runs)
    assert found["gala-atari", "pong"]["human_normalised_percent"] == pytest.approx(100)
    assert [found[arm, "pong"]["published"] for arm in published.ALGORITHMS] == [17.3, 21.0]
    random = dataclasses.replace(of[0], game="pong", final=-20.7)
    never = dataclasses.replace(of[0], final=None)
    shares = [each["human_normalised_percent"] for each in published.beside([random, never])]
    assert shares == [pytest.approx(0), None]
    study = Study(
        {name: [] for name in plan.BLOCKS} | {"atari": [*of, never]},
        dict.fromkeys(plan.BLOCKS, ()),
        {},
    )
    table = io.StringIO()
    show(report(study), table, 160)
    assert "15,627" in table.getvalue()


@pytest.mark.parametrize("other", [{"arm": "vtrace-atari"}, {"game": "enduro"}, {"game": "own"}])
def test_a_run_without_a_published_score_is_shown_without(other: dict[str, str]) -> None:
    """As of an arm, or a game, that was added to the file."""
    added = dataclasses.replace(row("gala-atari", "pong", 1, 5.0), **other)
    (found,) = published.beside([added])
    assert found["published"] is None
    assert (found["human_normalised_percent"] is None) is ("game" in other)
    study = Study(
        {name: [] for name in plan.BLOCKS} | {"atari": [added]},
        dict.fromkeys(plan.BLOCKS, ()),
        {},
    )
    table = io.StringIO()
    show(report(study), table, 160)
    assert next(iter(other.values())) in table.getvalue()


def test_scores_of_random_actions_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "random.json"
    assert random_actions.read(file) == {}
    random_actions.write({"breakout": 0.5}, file)
    assert random_actions.read(file) == {"breakout": 0.5}


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "{}", '{"mean": []}', '{"mean": 1}',
     '{"mean": {"breakout": 0.5, "freeway": "0.4"}}', '{"mean": {"breakout": null}}',
     '{"mean": {"breakout": NaN}}', '{"mean": {"breakout": true}}', '{"mean": {"breakout": 1e99}}'],
)  # fmt: skip
def test_scores_of_random_actions_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    """A game that is left out of them would be left out of what decides."""
    file = tmp_path / "random.json"
    file.write_text(text)
    with pytest.raises(UserError, match="damaged"):
        random_actions.read(file)


# Stable-Baselines3 beside it

PEER = PeerRun("stable-baselines3", "2.9.2", 1, 1600, 60.0, 1600, 60.0, 15.5)
SHORT = dataclasses.replace(PEER, reached_steps=None, reached_s=None, score=-20.0)


def test_a_run_of_another_library_is_kept_and_shown_beside(tmp_path: Path) -> None:
    file = tmp_path / "peers.jsonl"
    assert stable_baselines3.read(file) == []
    for each in (PEER, dataclasses.replace(PEER, seed=2, reached_steps=None, reached_s=None)):
        stable_baselines3.add(each, file)
    kept = stable_baselines3.read(file)
    assert kept[0] == PEER
    study = Study({name: [] for name in plan.BLOCKS}, dict.fromkeys(plan.BLOCKS, ()), {}, kept)
    (shown,) = report(study)["pong"]
    assert (shown["arm"], shown["runs"], shown["reached"]) == ("stable-baselines3", 2, 1)
    assert (shown["steps"], shown["seconds_as_trained"]) == (1600, 60.0)
    assert (shown["steps_per_s"], shown["seconds"]) == (None, None), "it takes no turns"
    assert [each.verdict for each in study.decisions()] == ["open"] * 3, "it decides nothing"
    file.write_text("[]\n")
    with pytest.raises(UserError, match="damaged"):
        stable_baselines3.read(file)


@pytest.mark.parametrize(
    ("returns", "goes_on", "score"),
    [([], True, None), ([20.0] * 99, True, 20.0), ([14.0] * 100, True, 14.0),
     ([20.0] * 50 + [10.0] * 50, False, 15.0)],
)  # fmt: skip
def test_it_ends_once_a_hundred_episodes_have_the_score(
    returns: list[float], goes_on: bool, score: float | None
) -> None:
    reached = stable_baselines3.Reached(15.0)
    model = SimpleNamespace(ep_info_buffer=[{"r": each} for each in returns])
    assert reached({"self": model}, {}) is goes_on
    assert (reached.score, reached.done) == (score, not goes_on)


def test_it_tells_now_and_then_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = SimpleNamespace(ep_info_buffer=[{"r": -20.0}, {"r": -19.0}], num_timesteps=1600)
    reached = stable_baselines3.Reached(15.0)
    assert reached({"self": model}, {})
    assert capsys.readouterr() == ("", ""), "not with every step"
    monkeypatch.setattr(stable_baselines3, "PROGRESS_S", 0.0)
    assert reached({"self": model}, {})
    assert capsys.readouterr() == ("", "galamp: study: 1,600 agent steps, score -19.5\n")


@pytest.fixture
def affinity(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The cores that a process is bound to, one after the other, which is not that of the test."""
    bound = [{3, 5, 7}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: bound[-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: bound.append(set(cores)))
    return bound


def test_it_has_two_cores_with_a_thread_each(
    affinity: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As galamp's runs in Pong; whoever had it trained has all cores afterwards."""
    threads: list[int] = []
    trained_on: list[set[int]] = []

    def learn(steps: int, callback: stable_baselines3.Reached) -> None:
        trained_on.append(affinity[-1])
        callback({"self": model}, {})

    model = SimpleNamespace(
        ep_info_buffer=[{"r": 16.0}] * 100, num_timesteps=1600, learn=learn,
        set_logger=lambda logger: None,
    )  # fmt: skip
    anything = MagicMock()
    for name in ("ale_py", "gymnasium", "stable_baselines3.common.env_util",
                 "stable_baselines3.common.logger", "stable_baselines3.common.vec_env",
                 "stable_baselines3.common", "stable_baselines3.common.sb2_compat",
                 "stable_baselines3.common.sb2_compat.rmsprop_tf_like"):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, anything)
    library = SimpleNamespace(A2C=lambda *_, **__: model, __version__="2.9.2")
    monkeypatch.setitem(sys.modules, "stable_baselines3", library)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    run = stable_baselines3.train(7, 3200)
    assert (trained_on, threads) == ([{3, 5}], [stable_baselines3.CORES])
    assert affinity == [{3, 5, 7}, {3, 5}, {3, 5, 7}]
    assert (run.seed, run.agent_steps, run.reached_steps, run.score) == (7, 1600, 1600, 16.0)


def test_a_process_without_it_keeps_its_cores(
    affinity: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(UserError, match="is missing"):
        stable_baselines3.train(1, 1)
    assert affinity[-1] == {3, 5, 7}


def test_older_runs_do_not_tell_their_machine(results: Path) -> None:
    values = dataclasses.asdict(PEER)
    del values["machine"]
    stable_baselines3.FILE.write_text(json.dumps(values) + "\n")
    assert stable_baselines3.read() == [PEER]
    assert PEER.machine == ""


def test_a_seed_of_another_library_is_trained_once(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [stable_baselines3.add(each) for each in (PEER, PEER)] == [True, False]
    assert len(stable_baselines3.read()) == 1
    monkeypatch.setattr(stable_baselines3, "train", lambda seed, steps: pytest.fail("trained"))
    assert command.main(["peer", "--seed", "1"]) == EXIT_OK
    assert "has a run of seed 1" in capsys.readouterr().err


def test_a_run_of_another_library_that_was_cut_short_does_not_occupy_its_seed(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by `--steps`, to try it: it says nothing of when the score would have come."""
    trained = iter([SHORT, dataclasses.replace(SHORT, agent_steps=plan.PEER_STEPS)])
    monkeypatch.setattr(stable_baselines3, "train", lambda seed, steps: next(trained))
    assert command.main(["peer", "--steps", "1600"]) == EXIT_OK
    assert "not kept" in capsys.readouterr().out
    assert stable_baselines3.read() == []
    assert command.main(["peer"]) == EXIT_OK
    (kept,) = stable_baselines3.read()
    assert kept.agent_steps == plan.PEER_STEPS
    assert kept.machine.startswith(processor_name()), "where it was trained"
    assert "Python" in kept.machine
    assert "not kept" not in capsys.readouterr().out


def test_a_stored_run_of_another_library_that_was_cut_short_does_not_count(results: Path) -> None:
    """An older galamp kept such runs."""
    stable_baselines3.FILE.write_text(json.dumps(dataclasses.asdict(SHORT)) + "\n")
    assert stable_baselines3.add(PEER), "it does not occupy the seed"
    counted, out = kept_peers("pong", stable_baselines3.read())
    assert counted == [PEER]
    assert [str(each) for each in out] == [
        "pong: stable-baselines3 1: ended below +15 before 6,000,000 agent steps"
    ]


@pytest.mark.slow
@pytest.mark.real
def test_stable_baselines3_is_really_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3")
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # of the tests' process
    monkeypatch.setattr(stable_baselines3, "FILE", tmp_path / "peers.jsonl")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(plan, "PEER_STEPS", 160)
    assert command.main(["peer", "--steps", "160"]) == EXIT_OK
    (run,) = stable_baselines3.read(tmp_path / "peers.jsonl")
    assert (run.agent_steps, run.seed, run.reached_steps) == (160, 1, None)
    assert "160 agent steps" in capsys.readouterr().out
    assert not list((tmp_path / "temporary").glob("SB3*"))
