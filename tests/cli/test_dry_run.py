"""`galamp run --dry-run`: the plan is shown, and nothing is started, written or measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from galamp.cli import dry_run, run
from galamp.cli import main as cli
from galamp.cli.dry_run import facts, learners_table, planned, settings_table
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import from_dict
from galamp.core.errors import UserError
from galamp.core.machine.machine import Gpu, Machine, inspect_cpus
from galamp.environments.base import EnvironmentSpec
from galamp.storage.run_folder import StoredChoices
from galamp.supervision.layout import RunLayout
from galamp.training import train
from galamp.training.resolve import ResolvedRun
from galamp.training.session import RunContext
from tests.support.sysfs import Socket, build

SPEC = EnvironmentSpec(
    "ALE/Breakout-v5", (4, 84, 84), "uint8", DiscreteActions(4), tuple("0123"), 4, True, "classic"
)


def surveyed(
    monkeypatch: pytest.MonkeyPatch, machine: Machine | None = None, **resources: object
) -> tuple[RunContext, ResolvedRun]:
    monkeypatch.setattr(train, "start_probe", Mock())
    monkeypatch.setattr(train, "finish_probe", lambda _: SPEC)
    if machine is not None:
        monkeypatch.setattr(train, "inspect_machine", lambda _: machine)
    return train.survey(from_dict({"resources": resources}), StoredChoices())


def box(root: Path) -> Machine:
    """Two sockets of 4 cores with siblings, a GPU at each."""
    cpus = inspect_cpus(build(root, [Socket(4), Socket(4)], threads=2), root)
    return Machine(cpus, (Gpu(0, 0), Gpu(1, 1)), 2**20)


def test_who_runs_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = surveyed(monkeypatch, box(tmp_path))
    assert [list(column.cells) for column in learners_table(*found).columns] == [
        ["0", "1"],
        ["cuda:0", "cuda:1"],
        ["0", "1"],
        ["0,8", "4,12"],
        ["1", "1"],
        ["6", "6"],
        ["1-3,9-11", "5-7,13-15"],
    ]


def test_each_setting_that_is_no_default_is_shown_with_its_source() -> None:
    config = from_dict({"seed": 3, "gossip": {"sync": True, "max_staleness": None}})
    sources = {("", "seed"): "--seed", ("gossip", "sync"): "--config a.toml"}
    columns = settings_table(config, sources).columns
    assert [list(column.cells) for column in columns] == [
        ["seed", "gossip.sync"],
        ["3", "true"],
        ["--seed", "--config a.toml"],
    ]


def test_without_pinning_any_processor_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = learners_table(*surveyed(monkeypatch, box(tmp_path), pin=False)).columns
    assert [list(columns[i].cells) for i in (3, 6)] == [["any"] * 2] * 2


def test_how_observations_are_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = surveyed(monkeypatch, learners=1, device="cpu")
    assert "observations" not in dict(facts(*found))
    assert planned(*found)["observations"] == {
        "shape": [4, 84, 84], "dtype": "uint8", "scale": 1 / 255, "note": ""
    }  # fmt: skip
    read = replace(SPEC, observation_scale=0.5, observation_note="images [H, W, C], 4 channels")
    monkeypatch.setattr(train, "finish_probe", lambda _: read)
    found = train.survey(from_dict({"resources": {"learners": 1}}), StoredChoices())
    assert dict(facts(*found))["observations"] == "images [H, W, C], 4 channels"
    assert planned(*found)["observations"]["scale"] == 0.5


def test_a_pipeline_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = surveyed(monkeypatch, learners=1, device="cpu")
    assert "pipeline" not in dict(facts(*found))
    algorithm = {"algorithm": "vtrace", "pipeline": True}
    config = from_dict({"algorithm": algorithm, "resources": {"learners": 1}})
    more = train.survey(config, StoredChoices())
    assert dict(facts(*more))["pipeline"].endswith("policy lag of one update")
    assert planned(*more)["config"]["algorithm"]["pipeline"] is True
    ring = found[0].environment.observation_shape, 5 + 1, 16
    extra = planned(*more)["shared_memory_bytes"] - planned(*found)["shared_memory_bytes"]
    assert extra > math.prod(ring[0]) * ring[1] * ring[2]


@pytest.mark.parametrize("learners", [1, 3])
def test_the_memory_is_what_a_run_reserves(
    learners: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, resolved = surveyed(monkeypatch, learners=learners, device="cpu")
    run_layout = RunLayout(
        resolved.plan, resolved.topology, context.environment, context.sketch, tmp_path, start=1
    )
    assert planned(context, resolved)["shared_memory_bytes"] == run_layout.arrays.size_bytes
    assert dict(facts(context, resolved))["shared memory"].startswith(
        f"{run_layout.arrays.size_bytes / 2**20:,.0f} MiB; "
    )


def test_the_command_prints_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = surveyed(monkeypatch, learners=2, device="cpu")
    monkeypatch.setattr(dry_run, "survey", lambda config, resume: _as_asked(found, config))
    monkeypatch.setattr(run, "start_server", lambda: pytest.fail("a server was started"))
    monkeypatch.chdir(tmp_path)
    words = ["run", "--dry-run", "--learners", "2", "--learning-rate", "0.25", "--game", "breakout"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "\nlearning rate  0.25\n" in shown
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["config"]["algorithm"]["learning_rate"] == 0.25
    assert [learner["device"] for learner in told["learners"]] == ["cpu", "cpu"]
    assert list(tmp_path.iterdir()) == []


def _as_asked(
    found: tuple[RunContext, ResolvedRun], config: object
) -> tuple[RunContext, ResolvedRun]:
    context, resolved = found
    return context, replace(resolved, plan=replace(resolved.plan, config=config))


def test_what_trains_to_find_out_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--dry-run", "--learners", "auto"]) == 2
    assert capsys.readouterr().err == (
        "galamp: --dry-run: --learners auto trains to find the number; give a number\n"
    )


def test_a_mistake_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--learners 999"):
        surveyed(monkeypatch, learners=999, device="cpu")
