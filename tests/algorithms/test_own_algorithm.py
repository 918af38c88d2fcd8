"""An algorithm from outside the package: by its name alone it is trained, resumed and played."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import galamp.algorithms as registry
from galamp.algorithms import config_class, flags_of_others, make_algorithm
from galamp.algorithms.a2c import A2C
from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.base import Algorithm
from galamp.algorithms.networks import build_model
from galamp.cli.help import text_of
from galamp.cli.main import build_parser, main
from galamp.core.action_spec import DiscreteActions
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.config import RunConfig, from_dict, to_dict
from galamp.core.errors import UserError
from galamp.core.settings import option, settings
from galamp.supervision.plan import make_plan, with_learners
from galamp.training.resume import changes
from tests.contracts.algorithm import ACTIONS, INPUTS, AlgorithmContract, random_rollout
from tests.supervision.test_plan import machine
from tests.support.command_lines import complaint, parsed
from tests.support.engine import DEADLINE_S, ROOT, STREAMS, end, summary
from tests.support.forked import Forked
from tests.support.toy_algorithm import Reinforce, ReinforceConfig

NAME = "tests.support.toy_algorithm:Reinforce"


def toy(learning_rate: float = 0.1, **more: Any) -> ReinforceConfig:
    return ReinforceConfig(NAME, learning_rate=learning_rate, **more)


class TestReinforce(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=seed)
        return make_algorithm(
            toy(), model, actions=DiscreteActions(ACTIONS), device="cpu", seed=seed
        )


# Settings


def help_of(*arguments: str) -> str:
    parser = build_parser(["run", *arguments])
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return str(commands.choices["run"].format_help())


def test_help_shows_what_the_named_algorithm_has_and_nothing_of_others() -> None:
    usual, own = help_of(), help_of("--algorithm", NAME)
    assert "--baseline-decay" in own
    assert "--baseline-decay" not in usual
    assert "losses/baseline: running mean of the returns" in " ".join(own.split())
    assert "--rmsprop-eps" in usual
    assert "--rmsprop-eps" not in own
    assert all("--gamma" in text for text in (usual, own))
    assert "(default: 20 agent steps)" in " ".join(own.split())
    assert help_of(f"--algorithm={NAME}") == own == help_of("--algo", NAME)
    assert help_of("--algorithm", "a2c") == usual == help_of("--algorithm", NAME, "--algo=a2c")


def test_its_settings_are_flags_and_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed("--algorithm", NAME, "--baseline-decay", "0.5", "--seed", "3")
    assert (config.algorithm, config.seed) == (ReinforceConfig(NAME, baseline_decay=0.5), 3)
    refused = complaint(capsys, "--algorithm", NAME, "--baseline-decay", "2")
    assert refused == "--baseline-decay 2.0: expected a number from 0 to 1"


def test_a_flag_of_another_algorithm_is_refused_with_its_owner(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for word in ("--rmsprop-eps", "--rmsprop-eps=1e-3"):
        line = complaint(capsys, "--algorithm", NAME, word)
        assert line == (
            f"--rmsprop-eps is a setting of --algorithm a2c, not of {NAME}: leave it out, or name "
            "that algorithm; see galamp run --help"
        )
    others = flags_of_others("a2c")
    assert others["--clip-coef"] == "ppo"
    assert others["--vtrace-lambda"] == "vtrace"
    assert "--vf-coef" not in others
    assert flags_of_others(NAME).keys() >= {"--ent-coef", "--max-grad-norm"}
    assert complaint(capsys, "--baseline-decay", "1").startswith("unknown option --baseline-decay")


def test_one_line_in_the_registry_makes_it_galamps_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = registry.Row("tests.support.toy_algorithm:ReinforceConfig", NAME)
    monkeypatch.setitem(registry.ALGORITHMS, "reinforce", row)
    config = parsed("--algorithm", "reinforce", "--baseline-decay", "0.5")
    assert config.algorithm == ReinforceConfig("reinforce", baseline_decay=0.5)
    assert from_dict(to_dict(config)) == config
    line = complaint(capsys, "--baseline-decay", "1")
    assert line.startswith("--baseline-decay is a setting of --algorithm reinforce, not of a2c: ")
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    ready = dataclasses.replace(config.algorithm, learning_rate=0.1)
    assert isinstance(
        make_algorithm(ready, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1),
        Reinforce,
    )


def test_the_worked_example_of_the_help_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of("extending")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "ScaledA2C" in c)
    (command,) = re.findall(r"`galamp (run [^`]*--reward-scale [^`]*)`", text)
    (tmp_path / "scaled.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = parsed(*command.split()[1:]).algorithm
    plain = dataclasses.replace(config, learning_rate=config.default_learning_rate(2))
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    algorithm = make_algorithm(plain, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1)
    assert algorithm.update(random_rollout(1)).keys() == config.gauges.keys()
    assert to_dict(RunConfig(algorithm=plain))["algorithm"]["reward_scale"] == 0.1
    assert plain.learning_rate == 1e-3


def test_registry_rows_name_a_class_and_its_own_settings() -> None:
    for name, row in registry.ALGORITHMS.items():
        kind = registry._look_up(row.algorithm)
        assert kind.config_class is config_class(name)
        assert config_class(name)().algorithm == name
    assert A2C.config_class is A2CConfig


def test_the_default_learning_rate_is_the_algorithms_own() -> None:
    for learners in (1, 4):
        config = from_dict(
            {"algorithm": {"algorithm": NAME}, "resources": {"learners": learners}}, NAME
        )
        plan = make_plan(config, machine(8))
        assert plan.config.algorithm.learning_rate == 0.03
    opened = with_learners(plan.config, 2, machine(8), plan.learners)
    assert opened.algorithm.learning_rate is None
    wished = dataclasses.replace(plan.config, algorithm=toy(7e-4 * 2))
    assert with_learners(wished, 2, machine(8), plan.learners).algorithm == wished.algorithm


def test_settings_of_its_own_that_change_are_told() -> None:
    old, new = RunConfig(algorithm=toy()), RunConfig(algorithm=toy(baseline_decay=0.5))
    assert changes(to_dict(old), new) == ["baseline decay: from 0.9 to 0.5"]


# Names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "a3c",
            "--algorithm a3c: expected one of a2c, vtrace, ppo, pqn, or package.module:Class",
        ),
        (
            "nowhere:Own",
            "--algorithm nowhere:Own: cannot import nowhere (No module named 'nowhere'",
        ),
        ("tests.nowhere:Own", "--algorithm tests.nowhere:Own: cannot import tests.nowhere ("),
        (
            "tests.support.broken_module:Own",
            "--algorithm tests.support.broken_module:Own: importing tests.support.broken",
        ),
        ("tests.support.toy_algorithm:Reinforced", "--algorithm tests.support.toy_algorithm:Reinf"),
        ("os:abort", "--algorithm os:abort: os has no class 'abort'"),
        ("pathlib:Path", "--algorithm pathlib:Path: expected a class of algorithms with its sett"),
        ("a:b:c", "--algorithm a:b:c: expected one of a2c"),
        ("", "--algorithm '': expected one of a2c"),
    ],
)
def test_a_name_that_cannot_be_used_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert complaint(capsys, "--algorithm", name).startswith(said)


@dataclasses.dataclass(frozen=True)
class Seeded(AlgorithmConfig):
    seed: int = option(1, "a seed")


@dataclasses.dataclass(frozen=True)
class Plain(AlgorithmConfig):
    decay: float = 0.5


class Unmeasured(AlgorithmConfig):
    gauges: ClassVar[Mapping[str, str]] = {"loss": "a loss"}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Seeded, "its setting seed has the name of one that every run has; give it another"),
        (Plain, "expected every field of Plain to be declared by galamp.core.settings.option"),
        (Unmeasured, "Unmeasured.gauges lacks grad_norm; add it"),
        (RunConfig, "expected a class of algorithms with its settings as config_class"),
    ],
)
def test_settings_that_cannot_be_used_are_told(
    monkeypatch: pytest.MonkeyPatch, kind: type, said: str
) -> None:
    monkeypatch.setattr(Reinforce, "config_class", kind)
    with pytest.raises(UserError) as refused:
        config_class(NAME)
    (line,) = refused.value.problems
    assert line.startswith(f"--algorithm {NAME}: ")
    assert said in line


# Stored settings


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of an algorithm whose module must not be imported, and tells if it is."""
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("open('ran', 'w')")
    folder = tmp_path / "run"
    folder.mkdir()
    config = to_dict(RunConfig(algorithm=toy()))
    config["algorithm"]["algorithm"] = "evil:Own"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_stored_name_alone_imports_nothing(
    capsys: pytest.CaptureFixture[str], trap: Path
) -> None:
    assert complaint(capsys, "--resume", str(trap)) == (
        f"--resume {trap}: the run wants to run your code evil:Own: if that is what you want, add "
        "--algorithm evil:Own"
    )
    assert complaint(capsys, "--resume", str(trap), "--algorithm", NAME) == (
        f"--algorithm {NAME}: --resume {trap}: the run is of evil:Own; name that"
    )
    stored = json.loads((trap / "config.json").read_text())
    read = from_dict(stored)
    assert type(read.algorithm) is AlgorithmConfig
    assert read.algorithm.algorithm == "evil:Own"
    assert not Path("ran").exists()
    assert "evil" not in sys.modules


def test_a_run_of_a2c_is_of_no_other_algorithm(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(to_dict(RunConfig())))
    assert complaint(capsys, "--resume", str(tmp_path), "--algorithm", NAME) == (
        f"--algorithm {NAME}: --resume {tmp_path}: the run is of a2c; name that"
    )
    assert parsed("--resume", str(tmp_path), "--algorithm", "a2c") == RunConfig()


def test_flags_that_the_resumed_runs_algorithm_has_not_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = registry.Row("tests.support.toy_algorithm:ReinforceConfig", NAME)
    monkeypatch.setitem(registry.ALGORITHMS, "reinforce", row)
    config = RunConfig(algorithm=ReinforceConfig("reinforce", baseline_decay=0.5))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert parsed("--resume", str(tmp_path)) == config
    assert complaint(capsys, "--resume", str(tmp_path), "--ent-coef", "1") == (
        "--ent-coef: the run is of algorithm reinforce, which has no such setting; leave it out"
    )


def test_a_config_of_before_keeps_its_keys() -> None:
    """Of a2c all settings are in the section `algorithm`, as they were when it had no subclass."""
    was = {
        "algorithm": "a2c", "num_steps": 7, "learning_rate": 1e-3, "gamma": 0.9, "ent_coef": 0.02,
        "vf_coef": 0.25, "max_grad_norm": 1.0, "rmsprop_alpha": 0.9, "rmsprop_eps": 1e-6,
        "rmsprop_form": "tf", "rmsprop_initial": 0.0, "precision": "bf16",
        "lr_schedule": "constant", "updates_per_rollout": 1, "pipeline": False,
    }  # fmt: skip
    read = from_dict({"algorithm": was}).algorithm
    assert isinstance(read, A2CConfig)
    assert to_dict(RunConfig(algorithm=read))["algorithm"] == was
    assert {setting.name for setting in settings(A2CConfig)} == was.keys()


# Training


def galamp(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `galamp` in a working directory of its own."""
    process = Forked([str(word) for word in arguments], **STREAMS | {"cwd": folder})
    try:
        output, errors = process.communicate(timeout=2 * DEADLINE_S)
    finally:
        end(process)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.mark.real
def test_one_file_is_trained_resumed_played_and_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, name, folder = tmp_path / "mine.py", "mine:Reinforce", tmp_path / "run"
    own.write_text((ROOT / "tests" / "support" / "toy_algorithm.py").read_text())
    first = galamp(
        tmp_path, "run", "--env-id", "CartPole-v1", "--algorithm", name, "--baseline-decay", 0.8,
        "--learners", 2, "--num-envs", 4, "--total-steps", 800, "--log-every-s", 0.1,
        "--device", "cpu", "--run-dir", folder, "--json",
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert sum(told["updates_per_learner"]) == told["agent_steps"] // (4 * 20) >= 10
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {key for key in row if key.startswith("losses/")} == {
        "losses/baseline",
        "losses/grad_norm",
    }
    assert row["losses/baseline"] > 0
    stored = json.loads((folder / "config.json").read_text())["algorithm"]
    kept = {"algorithm": name, "baseline_decay": 0.8, "learning_rate": 0.03}
    assert stored.items() >= kept.items()
    assert "rmsprop_eps" not in stored

    more = ["--resume", str(folder), "--total-steps", "1200", "--json"]
    again = galamp(tmp_path, "run", *more, "--algorithm", name)
    assert again.returncode == 0, again.stderr
    assert summary(folder)["start"] == 2

    # From here on nobody may import it: who does ends this test.
    own.write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert f"add --algorithm {name}" in complaint(capsys, *more)
    assert main(["eval", str(folder), "--episodes", "2", "--quiet", "--device", "cpu"]) == 0
    assert main(["audit", str(folder)]) == 0
