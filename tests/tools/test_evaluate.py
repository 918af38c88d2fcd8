from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import nn

import galamp
from galamp.algorithms.distributions import Categorical
from galamp.algorithms.networks import build_model
from galamp.algorithms.networks.base import ActorCritic
from galamp.cli.main import main
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import EnvironmentConfig, RunConfig, to_dict
from galamp.core.errors import CheckpointError, GalampError, UserError
from galamp.core.machine.torch_device import usable_device
from galamp.environments import (
    Environment,
    EnvironmentSpec,
    Transition,
    describe,
)
from galamp.environments.names import list_games
from galamp.environments.names import rom_name as rom
from galamp.environments.protocols import resolve
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint, Identity, LearnerState, MeanState
from galamp.telemetry.display.streams import STARTING
from galamp.telemetry.display.text import UNKNOWN
from galamp.tools.evaluation import agent as agents
from galamp.tools.evaluation import report as evaluation
from galamp.tools.evaluation import whole_games
from galamp.tools.evaluation.agent import SMALL_BATCH, Agent
from galamp.tools.evaluation.config import STEP_LIMIT, EvaluationConfig
from galamp.tools.evaluation.inputs import InputForm
from galamp.tools.evaluation.playing import Game, play, quotas, score
from galamp.tools.evaluation.references import REFERENCES, Reference, misfit, reference_for
from galamp.tools.evaluation.table import Progress, show
from galamp.tools.evaluation.trained import MEAN, locate, read
from galamp.tools.play.config import PlayConfig
from galamp.tools.play.loading import load as load_played
from tests.support import networks
from tests.support.engine import also

CARTPOLE = Identity("CartPole-v1", "gymnasium: ...", (4,), DiscreteActions(2), "a2c", "mlp", ())
BREAKOUT = Identity(
    "ALE/Breakout-v5", "classic: ...", (4, 84, 84), DiscreteActions(4), "a2c", "gala", ()
)
OBSERVATIONS = np.random.default_rng(5).normal(size=(64, 4)).astype(np.float32)


def model_of(identity: Identity, seed: int) -> nn.Module:
    """A network whose choices differ: the initial policies are all but uniform."""
    dtype = "uint8" if len(identity.observation_shape) == 3 else "float32"
    shape, actions = identity.observation_shape, identity.actions.n
    model = build_model(identity.network, shape, dtype, actions, seed=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("policy.4.weight", "heads.weight"):
                parameter.mul_(100.0)
    return model


def state_of(model: nn.Module, rank: int) -> LearnerState:
    parameters = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    return LearnerState(rank, parameters, {}, {"updates": 1}, np.zeros(16, np.uint8))


def saved(
    folder: Path, identity: Identity, learners: int, *, seed: int = 0, steps: int = 0
) -> Path:
    """Save fresh networks as the checkpoint of a training, in the run folder `folder`."""
    models = [model_of(identity, seed + rank) for rank in range(learners)]
    layout = tuple((name, tuple(p.shape)) for name, p in models[0].named_parameters())
    config = RunConfig(environment=EnvironmentConfig(env_id=identity.env_id))
    states = tuple(state_of(model, rank) for rank, model in enumerate(models))
    identity = dataclasses.replace(identity, layout=layout)
    content = Checkpoint(identity, to_dict(config), {"agent_steps": steps}, states)
    folder.mkdir(exist_ok=True)
    path = checkpoints.save(folder / "checkpoints", content)
    checkpoints.point(path.parent, "latest", path)
    return path


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three learners."""
    folder = tmp_path_factory.mktemp("cartpole")
    saved(folder, CARTPOLE, 3, steps=700)
    return folder


@pytest.fixture(scope="module")
def breakout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two learners."""
    folder = tmp_path_factory.mktemp("breakout")
    saved(folder, BREAKOUT, 2, steps=12_345)
    return folder


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Describe environments in this process; the probe itself is tested with the environments."""
    monkeypatch.setattr(evaluation, "start_probe", lambda config, **_: config)
    monkeypatch.setattr(evaluation, "finish_probe", describe)


def answer(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    """Run `galamp eval --json`."""
    assert main(["eval", *map(str, words), "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report: dict[str, Any] = json.loads(captured.out)
    return report


def complaint(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run `galamp eval`, which must fail with one line and exit code 2; return the line."""
    try:
        code: object = main(["eval", *map(str, words)])
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    told = captured.err.removeprefix(STARTING)
    assert told.startswith("galamp: ")
    assert told.count("\n") == 1
    return told


# --- agents ---


def test_mean_of_learners_is_the_average(cartpole: Path) -> None:
    trained = read(locate(cartpole).path)
    models = [dict(model_of(CARTPOLE, rank).named_parameters()) for rank in range(3)]
    mean = trained.parameters(MEAN)
    assert list(mean) == list(models[0])
    for name, value in mean.items():
        flat = [model[name].detach().numpy().ravel().tolist() for model in models]
        expected = [sum(numbers) / 3 for numbers in zip(*flat, strict=True)]
        np.testing.assert_array_equal(value.ravel(), np.array(expected, np.float32))
        assert value.dtype == np.float32


def test_of_several_nodes_the_mean_is_that_of_all(cartpole: Path) -> None:
    trained = read(locate(cartpole).path)
    parameters = {name: value + 1.0 for name, value in trained.parameters(MEAN).items()}
    with_mean = dataclasses.replace(trained.checkpoint, mean=MeanState(parameters, 6))
    whole = dataclasses.replace(trained, checkpoint=with_mean)
    assert whole.parameters(MEAN) is parameters
    for name, value in trained.parameters(1).items():
        np.testing.assert_array_equal(whole.parameters(1)[name], value)
    next(iter(parameters.values())).reshape(-1)[0] = np.nan
    with pytest.raises(CheckpointError, match="the mean of all nodes has parameters that are not"):
        whole.parameters(MEAN)


@pytest.mark.parametrize("learner", [MEAN, 0, 2])
def test_greedy_takes_the_largest_logit_of_the_asked_for_network(
    cartpole: Path, learner: Any
) -> None:
    model = model_of(CARTPOLE, 0)
    with torch.no_grad():
        wanted = read(locate(cartpole).path).parameters(learner)
        if learner != MEAN:
            wanted = {
                n: p.detach().numpy() for n, p in model_of(CARTPOLE, learner).named_parameters()
            }
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(wanted[name]))
        logits, _ = model(torch.from_numpy(OBSERVATIONS))
    actions = galamp.load(cartpole, learner=learner).act(OBSERVATIONS, greedy=True)
    assert isinstance(actions, np.ndarray)
    assert actions.tolist() == logits.argmax(-1).tolist()
    assert 0 < sum(actions.tolist()) < 64


@pytest.mark.parametrize("run", ["cartpole", "breakout"])
def test_one_observation_gets_the_action_that_it_gets_in_a_batch(
    run: str, request: pytest.FixtureRequest
) -> None:
    agent = galamp.load(request.getfixturevalue(run), learner=0)
    batch: NDArray[Any] = OBSERVATIONS
    if run == "breakout":
        batch = np.random.default_rng(1).integers(0, 256, (6, 4, 84, 84)).astype(np.uint8)
    together = agent.act(batch, greedy=True)
    assert isinstance(together, np.ndarray)
    assert together.dtype == np.int64
    assert together.shape == (len(batch),)
    alone = [agent.act(one, greedy=True) for one in batch]
    assert all(type(action) is int for action in alone)
    assert alone == together.tolist()
    agent.seed(9)
    drawn = agent.act(batch[0])
    agent.seed(9)
    assert np.asarray(agent.act(batch[:1])).tolist() == [drawn]


def test_drawn_actions_follow_the_policy_and_the_seed(cartpole: Path) -> None:
    with torch.no_grad():
        logits, _ = model_of(CARTPOLE, 1)(torch.from_numpy(OBSERVATIONS[:1]))
    same = np.repeat(OBSERVATIONS[:1], 20_000, axis=0)
    agent = galamp.load(cartpole, learner=1, seed=4)
    first = np.asarray(agent.act(same))
    # Five standard deviations of a share of 20,000.
    assert abs(first.mean() - float(logits.softmax(-1)[0, 1])) < 5 * 0.5 / 20_000**0.5
    assert not np.array_equal(first, np.asarray(agent.act(same)))
    again = galamp.load(cartpole, learner=1, seed=4)
    assert np.array_equal(first, np.asarray(again.act(same)))
    other = galamp.load(cartpole, learner=1, seed=5)
    assert not np.array_equal(first, np.asarray(other.act(same)))


def test_observations_are_taken_as_environments_give_them(cartpole: Path) -> None:
    agent = galamp.load(cartpole)
    expected = np.asarray(agent.act(OBSERVATIONS, greedy=True)).tolist()
    frozen = OBSERVATIONS.copy()
    frozen.setflags(write=False)
    given: tuple[Any, ...] = (OBSERVATIONS.astype(np.float64), OBSERVATIONS.tolist(), frozen)
    for observations in given:
        assert np.asarray(agent.act(observations, greedy=True)).tolist() == expected
    assert np.asarray(agent.act(np.zeros((0, 4), np.float32))).shape == (0,)


def test_float_images_are_not_scaled_and_bytes_are(breakout: Path) -> None:
    trained = read(locate(breakout).path)
    identity = dataclasses.replace(trained.checkpoint.identity, env_id="my.module:make")
    content = dataclasses.replace(trained.checkpoint, identity=identity)
    own = Agent(dataclasses.replace(trained, checkpoint=content), 0, torch.device("cpu"))
    frames = np.random.default_rng(2).integers(0, 256, (8, 4, 84, 84)).astype(np.uint8)
    frames = np.repeat(frames, 12, axis=0)
    scaled = frames.astype(np.float32) / 255

    # Not greedy: without biases, the scale of the inputs changes no order of the logits.
    def drawn(observations: NDArray[Any]) -> list[int]:
        own.seed(1)
        return np.asarray(own.act(observations)).tolist()  # type: ignore[no-any-return]

    assert drawn(frames) == drawn(scaled)
    assert drawn(frames) != drawn(scaled / 255)


def test_wrong_observations_are_refused(cartpole: Path, breakout: Path) -> None:
    agent = galamp.load(cartpole)
    shapes: tuple[tuple[int, ...], ...] = ((), (3,), (2, 5), (1, 2, 4))
    for shape in shapes:
        with pytest.raises(UserError, match=r"expected \[4\] for one, or \[B, 4\] for a batch"):
            agent.act(np.zeros(shape, np.float32))
    with pytest.raises(UserError, match="expected numbers"):
        agent.act(np.array(["a", "b", "c", "d"]))
    with pytest.raises(UserError, match="expected uint8"):
        galamp.load(breakout).act(np.zeros((4, 84, 84), np.float32))


# A picture of each kind of shape: three channels, one, and one that looks alike from both sides.
PICTURES = [(3, 36, 40), (1, 36, 36), (4, 40, 36)]


def of_pictures(
    trained: Any,
    shape: tuple[int, ...],
    env_id: str = "my.own:make",
    scale: float | None = None,
    network: str = "gala",
) -> Agent:
    """An agent of a network for pictures `[C, H, W]`."""
    identity = dataclasses.replace(
        BREAKOUT,
        env_id=env_id,
        observation_shape=shape,
        observation_scale=scale,
        network=network,
    )
    model = model_of(identity, 3)
    layout = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    content = dataclasses.replace(
        trained.checkpoint,
        identity=dataclasses.replace(identity, layout=layout),
        learners=(state_of(model, 0),),
    )
    return Agent(dataclasses.replace(trained, checkpoint=content), 0, torch.device("cpu"))


@pytest.mark.parametrize("shape", PICTURES)
def test_pictures_are_taken_with_their_channels_first_or_last(
    breakout: Path, shape: tuple[int, ...]
) -> None:
    agent = of_pictures(read(locate(breakout).path), shape)
    random = np.random.default_rng(2)
    first = random.integers(0, 256, (40, *shape)) * (random.random((40, *shape)) < 0.05)
    first = first.astype(np.uint8)
    last = np.ascontiguousarray(np.moveaxis(first, 1, -1))
    expected = np.asarray(agent.act(first, greedy=True)).tolist()
    assert len(set(expected)) > 1
    assert np.asarray(agent.act(last, greedy=True)).tolist() == expected
    assert [agent.act(one, greedy=True) for one in last] == expected
    with pytest.raises(UserError, match=r"or \[\d+, \d+, \d\] with channels last"):
        agent.act(np.moveaxis(first, 1, 2))


def test_training_s_own_shape_comes_first_and_atari_has_no_other(breakout: Path) -> None:
    trained = read(locate(breakout).path)
    for shape in ((40, 36, 3), (36, 36, 1), (36, 40, 4)):  # training itself had channels last
        agent = of_pictures(trained, shape)
        assert InputForm(agent.identity).channels_last() is None
        assert type(agent.act(np.zeros(shape, np.uint8))) is int
    with pytest.raises(UserError, match=r"expected \[4, 84, 84\] for one") as caught:
        galamp.load(breakout).act(np.zeros((84, 84, 4), np.uint8))
    assert "channels last" not in str(caught.value)


def test_observations_are_scaled_as_in_training_whatever_their_type(breakout: Path) -> None:
    """Actions are drawn: without biases, the most probable one does not depend on the scale."""
    trained, shape = read(locate(breakout).path), (3, 10, 10)
    random = np.random.default_rng(2)
    images = random.integers(0, 9, (64, *shape)) * (random.random((64, *shape)) < 0.05)

    def drawn(scale: float | None, given: Any) -> Any:
        agent = of_pictures(trained, shape, scale=scale, network="minatar")
        return np.asarray(agent.act(given)).tolist()

    expected = drawn(1.0, images / 8)
    assert drawn(1.0, images) != expected
    assert drawn(None, images.astype(np.uint8)) != expected
    last = np.moveaxis(images, 1, -1)
    for given in (images.astype(np.uint8), images, images.astype(np.float32), last):
        assert drawn(1 / 8, given) == expected


def test_an_environment_of_other_bounds_is_not_that_of_the_training(cartpole: Path) -> None:
    trained = read(locate(cartpole).path)
    spec = describe(EnvironmentConfig("CartPole-v1"))
    trained.check_fits(spec)
    with pytest.raises(CheckpointError, match=r"observations times 1, .* ask for 0\.5 here"):
        trained.check_fits(dataclasses.replace(spec, observation_scale=0.5))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("row", [0, 3, 63])
def test_numbers_that_are_none_are_refused_by_row(cartpole: Path, wrong: float, row: int) -> None:
    agent = galamp.load(cartpole)
    observations = OBSERVATIONS.astype(np.float64)
    observations[row:, 1] = wrong
    with pytest.raises(UserError, match=f"^observations: row {row} holds NaN, infinity"):
        agent.act(observations)
    with pytest.raises(UserError, match=r"^the observation holds NaN, infinity"):
        agent.act(observations[row])
    assert len(np.asarray(agent.act(OBSERVATIONS))) == 64


@pytest.mark.parametrize(
    "objects", [None, [None] * 4, [{}] * 4, [[0.0], [0.0, 1.0]], "abcd", [1j] * 4]
)
def test_what_holds_no_numbers_is_refused_in_one_line(cartpole: Path, objects: Any) -> None:
    with pytest.raises(UserError, match="expected") as caught:
        galamp.load(cartpole).act(objects)
    assert "numbers" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """torch has three threads; yields with how many each network has computed."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen: list[int] = []
    forward = ActorCritic.__call__

    def noted(self: ActorCritic, *args: Any) -> Any:
        seen.append(torch.get_num_threads())
        return forward(self, *args)

    monkeypatch.setattr(ActorCritic, "__call__", noted)
    yield seen
    torch.set_num_threads(before)


def test_few_observations_are_computed_by_one_thread(cartpole: Path, threads: list[int]) -> None:
    agent = galamp.load(cartpole)
    for batch in (OBSERVATIONS[0], OBSERVATIONS[:1], OBSERVATIONS[:SMALL_BATCH], OBSERVATIONS):
        agent.act(batch)
        assert torch.get_num_threads() == 3
    assert threads == [1, 1, 1, 3]


def test_the_number_of_threads_is_given_back_after_an_error(
    cartpole: Path, monkeypatch: pytest.MonkeyPatch, threads: list[int]
) -> None:
    def fail(*args: Any) -> None:
        assert torch.get_num_threads() == 1
        raise RuntimeError("no memory")

    agent = galamp.load(cartpole)
    monkeypatch.setattr(Categorical, "sample", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        agent.act(OBSERVATIONS[0])
    assert torch.get_num_threads() == 3


def test_threads_that_act_at_the_same_time_keep_their_numbers(
    cartpole: Path, threads: list[int]
) -> None:
    """Also those that have never met torch before: they get the number that was set last."""
    agents = [galamp.load(cartpole) for _ in range(8)]
    begin = threading.Barrier(len(agents))

    def act(agent: Agent) -> int:
        begin.wait(60)
        for _ in range(50):
            agent.act(OBSERVATIONS[0])
        return torch.get_num_threads()

    with ThreadPoolExecutor(len(agents)) as pool:
        assert list(pool.map(act, agents)) == [3] * len(agents)
    assert set(threads) == {1}
    assert torch.get_num_threads() == 3


def test_agent_knows_what_it_is(cartpole: Path) -> None:
    agent = galamp.load(str(cartpole))
    assert (agent.learner, agent.agent_steps, agent.identity.env_id) == (MEAN, 700, "CartPole-v1")
    assert agent.path.name == "ckpt-000000000700"
    assert (agent.spec.env_id, agent.spec.num_actions) == ("CartPole-v1", 2)


def test_bad_requests_name_what_is_possible(cartpole: Path, tmp_path: Path) -> None:
    requests: list[tuple[str, type[GalampError], Callable[[], object]]] = [
        ("no learner", CheckpointError, lambda: galamp.load(cartpole, learner=3)),
        ("expected mean or", UserError, lambda: galamp.load(cartpole, learner="0")),  # type: ignore[arg-type]
        ("expected mean or", UserError, lambda: galamp.load(cartpole, learner=-1)),
        ("best or latest", UserError, lambda: galamp.load(cartpole, which="newest")),
        ("no such path", CheckpointError, lambda: galamp.load(tmp_path / "none")),
        ("holds no checkpoint", CheckpointError, lambda: galamp.load(tmp_path)),
        ("expected auto, cpu", UserError, lambda: usable_device("tpu")),
        ("expected auto, cpu", UserError, lambda: usable_device("")),
        ("shows", UserError, lambda: usable_device("cuda:99")),
    ]
    for words, kind, request in requests:
        with pytest.raises(kind, match=words) as caught:
            request()
        assert "\n" not in str(caught.value)


def test_parameters_that_are_not_finite_are_refused(cartpole: Path) -> None:
    trained = read(locate(cartpole).path)
    trained.checkpoint.learners[1].parameters["policy.0.bias"][3] = np.nan
    trained.parameters(0)
    for learner in (1, MEAN):
        with pytest.raises(CheckpointError, match="learner 1 has parameters that are not finite"):
            trained.parameters(learner)


# --- which checkpoint ---


def test_every_way_to_name_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    older = saved(run, CARTPOLE, 1, steps=100)
    newer = saved(run, CARTPOLE, 1, seed=7, steps=200)
    inner = run / "checkpoints"
    assert locate(run).path == newer
    with pytest.raises(CheckpointError, match="no best checkpoint"):
        locate(run, "best")
    checkpoints.point(inner, "best", older)
    (tmp_path / "link").symlink_to(run)
    for path in (run, inner, inner / "best", older, tmp_path / "link"):
        assert locate(path).path == older, path
    for path in (run, inner, tmp_path / "link"):
        assert locate(path, "latest").path == newer, path
        assert locate(path, "best").path == older, path
    assert locate(inner / "latest").path == newer
    with pytest.raises(UserError, match="is one checkpoint"):
        locate(older, "latest")


def test_damaged_checkpoints_are_passed_over_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_once(monkeypatch)
    saved(tmp_path, CARTPOLE, 1, steps=100)
    newer = saved(tmp_path, CARTPOLE, 1, steps=200)
    (newer / "state.json").write_text("{}")
    assert main(["eval", str(tmp_path), "--episodes", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["agent_steps"] == 100
    assert "warning: damaged checkpoint passed over" in captured.err


def damage(path: Path, how: str) -> None:
    if how == "state":
        (path / "state.json").write_text("{}")
    elif how == "manifest":
        (path / "MANIFEST.json").unlink()
    else:
        file = path / "learner-0.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("how", ["state", "manifest", "learner"])
def test_an_agent_is_loaded_past_damaged_checkpoints_aloud(tmp_path: Path, how: str) -> None:
    saved(tmp_path, CARTPOLE, 1, steps=100)
    damaged = [saved(tmp_path, CARTPOLE, 1, steps=steps) for steps in (200, 300)]
    for path in damaged:
        damage(path, how)
    with pytest.warns(UserWarning, match="damaged checkpoint passed over") as told:
        agent = galamp.load(tmp_path)
    assert agent.agent_steps == 100
    assert len(told) == 2
    for warning, path in zip(told, reversed(damaged), strict=True):
        assert f"damaged checkpoint passed over: checkpoint {path}: " in str(warning.message)
        assert warning.filename == __file__
    galamp.load(damaged[0].with_name("ckpt-000000000100"))  # that one was named: not a word


@pytest.mark.parametrize("how", ["state", "manifest", "learner"])
def test_of_a_damaged_best_one_it_is_said_that_the_latest_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    best = saved(tmp_path, CARTPOLE, 1, steps=100)
    saved(tmp_path, CARTPOLE, 1, steps=200)
    latest = saved(tmp_path, CARTPOLE, 1, steps=300)
    checkpoints.point(best.parent, "best", best)
    damage(best, how)
    hint = f"{latest.name} is whole: ask for the latest (--which latest)"
    for which in ((), ("--which", "best")):
        told = complaint(capsys, tmp_path, *which)
        assert f"checkpoint {best}: " in told
        assert hint in told
    with pytest.raises(CheckpointError) as caught:
        galamp.load(tmp_path / "checkpoints")
    assert hint.replace("--which", "which") in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        load_played(tmp_path, PlayConfig())
    assert hint.replace("--which", "--checkpoint") in str(caught.value)
    with pytest.raises(UserError, match="leave out --checkpoint, or name"):
        load_played(latest, PlayConfig(checkpoint="best"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a manifest it may be newer: it is passed over
        assert galamp.load(tmp_path, which="latest").agent_steps == 300


def test_where_no_other_one_is_whole_no_other_one_is_named(tmp_path: Path) -> None:
    best = saved(tmp_path, CARTPOLE, 1, steps=100)
    damage(saved(tmp_path, CARTPOLE, 1, steps=200), "learner")
    checkpoints.point(best.parent, "best", best)
    damage(best, "learner")
    with pytest.raises(CheckpointError, match=r"learner-0\.safetensors is damaged") as caught:
        galamp.load(tmp_path)
    assert "latest" not in str(caught.value)


def test_a_checkpoint_whose_settings_name_another_game_is_refused(cartpole: Path) -> None:
    path = locate(cartpole).path
    content = checkpoints.load(path)
    content.config["environment"]["env_id"] = "os:abort"
    other = checkpoints.save(cartpole.parent / "other", content)
    with pytest.raises(CheckpointError, match="but its settings name os:abort"):
        galamp.load(other)


def test_a_checkpoint_alone_runs_no_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made it may have named any function of any module that lies around."""
    at_once(monkeypatch)
    own = dataclasses.replace(
        CARTPOLE, env_id="tests.support.crashing:healthy", observation_shape=(2,)
    )
    saved(tmp_path, own, 1)
    told = complaint(capsys, tmp_path)
    assert "wants to run your code tests.support.crashing:healthy" in told
    assert "--env-id tests.support.crashing:healthy" in told
    assert "is of tests.support.crashing:healthy" in complaint(
        capsys, tmp_path, "--env-id", "os:abort"
    )
    words = ("--env-id", "tests.support.crashing:healthy", "--episodes", "1")
    assert answer(capsys, tmp_path, *words)["env_id"] == "tests.support.crashing:healthy"


@pytest.mark.parametrize(
    "name", ["tests.support.crashing:healthy", "tests.support.misbehaving:Registered-v0"]
)
def test_an_agent_alone_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    started: list[str] = []

    def start(config: EnvironmentConfig) -> EnvironmentConfig:
        started.append(config.env_id)
        return config

    monkeypatch.setattr(agents, "start_probe", start)
    monkeypatch.setattr(agents, "finish_probe", lambda config: config)
    monkeypatch.setattr(agents.Trained, "check_fits", lambda trained, spec: None)
    own = dataclasses.replace(CARTPOLE, env_id=name, observation_shape=(2,))
    saved(tmp_path, own, 1)
    for env_id, told in (("", f"give galamp.load the env_id {name}"), ("os:abort", "name that")):
        agent = galamp.load(tmp_path, env_id=env_id)
        agent.act(np.zeros((1, 2), np.float32))
        with pytest.raises(UserError, match=told):
            _ = agent.spec
    assert started == []
    assert galamp.load(tmp_path, env_id=name).spec.env_id == name
    assert started == [name]


TOY = "tests.support.networks:Toy"


def test_a_checkpoint_alone_runs_no_code_for_its_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    saved(tmp_path, dataclasses.replace(CARTPOLE, network=TOY), 2)
    monkeypatch.delitem(sys.modules, "tests.support.networks")
    told = complaint(capsys, tmp_path)
    assert f"the checkpoint wants to run your code {TOY}: " in told
    assert told.endswith(f"add --network {TOY}\n")
    for other in ("os:abort", "mlp"):
        told = complaint(capsys, tmp_path, "--network", other)
        assert f"--network {other}: the checkpoint is of {TOY}; name that" in told
    for network, how in (("", f"give galamp.load the network {TOY}"), ("os:abort", "name that")):
        with pytest.raises(UserError, match=how):
            galamp.load(tmp_path, network=network)
    assert "tests.support.networks" not in sys.modules
    assert answer(capsys, tmp_path, "--network", TOY, "--episodes", "1")["results"]


@pytest.mark.parametrize("network", ["mlp", "nature", "os:abort"])
def test_a_checkpoint_of_galamps_own_network_is_named_as_such(
    cartpole: Path, capsys: pytest.CaptureFixture[str], network: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    at_once(monkeypatch)
    if network == "mlp":
        words = ("--network", network, "--episodes", "1", "--output", cartpole / f"{network}.json")
        assert answer(capsys, cartpole, *words)["results"]
        return
    told = complaint(capsys, cartpole, "--network", network)
    assert f"--network {network}: the checkpoint is of mlp; name that" in told


def test_an_agent_of_the_users_network_takes_both_types(tmp_path: Path) -> None:
    saved(tmp_path, dataclasses.replace(CARTPOLE, network=TOY), 1)
    agent = galamp.load(tmp_path, network=TOY)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 4)).astype(np.uint8)
    of_bytes = agent.act(pixels, greedy=True)
    assert np.array_equal(of_bytes, agent.act((pixels / 255).astype(np.float32), greedy=True))
    assert len(set(of_bytes.tolist())) == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wide", r"ckpt-\d+: --network tests.support.networks:wide: for observations"),
        ("drawing", r"has the parameter policy.bias \[2\] where the network .*:drawing, for"),
    ],
)
def test_a_users_network_that_is_not_the_checkpoints_is_refused(
    tmp_path: Path, name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code may have changed since."""
    network = f"tests.support.networks:{name}"
    saved(tmp_path, dataclasses.replace(CARTPOLE, network=TOY), 1)
    path = locate(tmp_path).path
    content = checkpoints.load(path)
    identity = dataclasses.replace(content.identity, network=network)
    if name == "drawing":
        monkeypatch.setattr(networks, "drawing", lambda *task: networks.Toy(*task[:2], 5))
        monkeypatch.setattr(
            "galamp.tools.evaluation.trained_network.check_model", lambda *task: None
        )
    other = checkpoints.save(tmp_path / "other", dataclasses.replace(content, identity=identity))
    with pytest.raises(CheckpointError, match=told):
        galamp.load(other, network=network)


def test_another_version_of_the_environment_is_refused(cartpole: Path) -> None:
    trained = read(locate(cartpole).path)
    spec = describe(trained.environment)
    trained.check_fits(spec)
    with pytest.raises(CheckpointError, match=r"2 actions, but CartPole-v1 has .* 3 actions here"):
        trained.check_fits(dataclasses.replace(spec, actions=DiscreteActions(3)))


# --- playing ---

ResolvedRun = list[Game]


class Scripted(Environment):
    """Environments whose games are written down: the reward of a game comes with its last step."""

    def __init__(self, courses: list[ResolvedRun]) -> None:
        self.num_envs = len(courses)
        self.spec = EnvironmentSpec(
            "scripted", (1,), "float32", DiscreteActions(2), ("0", "1"), 1, False, "-"
        )
        self._courses = courses

    def reset(self) -> NDArray[Any]:
        self._games = [iter(resolved) for resolved in self._courses]
        self._game = [next(games) for games in self._games]
        self._at = [0] * self.num_envs
        return np.zeros((self.num_envs, 1), np.float32)

    def step(self, actions: NDArray[np.int64]) -> Transition:
        rewards = np.zeros(self.num_envs, np.float32)
        terminated, truncated, reset = (np.zeros(self.num_envs, np.bool_) for _ in range(3))
        for env_index, game in enumerate(self._game):
            if self._at[env_index] == game.length:
                self._game[env_index], self._at[env_index] = next(self._games[env_index]), 0
                reset[env_index] = True
                continue
            self._at[env_index] += 1
            if self._at[env_index] == game.length:
                rewards[env_index] = game.ret
                (truncated if game.truncated else terminated)[env_index] = True
        observations = np.arange(self.num_envs, dtype=np.float32)[:, np.newaxis]
        return Transition(observations, rewards, terminated, truncated, reset)

    def close(self) -> None:
        pass


def scripts(envs: int, games: int) -> list[ResolvedRun]:
    """Half of the games are short and poor, half are long and good."""
    draw = random.Random(3)
    kinds = (Game(0.0, 1, False), Game(5.0, 40, False), Game(5.0, 40, True), Game(0.0, 2, False))
    return [[draw.choice(kinds) for _ in range(games)] for _ in range(envs)]


@pytest.mark.parametrize("episodes", [1, 4, 10, 43])
def test_each_environment_plays_its_share_whatever_the_lengths(episodes: int) -> None:
    courses = scripts(envs=min(4, episodes), games=500)
    seen: list[int] = []

    def act(observations: NDArray[Any], *_: object) -> NDArray[np.int64]:
        seen.append(len(observations))
        return np.zeros(len(observations), np.int64)

    told: list[Game] = []
    games = play(Scripted(courses), act, episodes, told.append)
    share, rest = divmod(episodes, len(courses))
    expected = [
        resolved[: share + (env_index < rest)] for env_index, resolved in enumerate(courses)
    ]
    assert games == [game for resolved in expected for game in resolved]
    assert len(told) == episodes
    assert sorted(map(str, told)) == sorted(map(str, games))
    # Environments that are done are not acted for.
    assert seen[0] == len(courses)
    assert sum(seen) == sum(game.length + 1 for game in games)


def test_quotas_differ_by_one_at_most() -> None:
    for episodes, envs in ((1, 1), (30, 16), (5, 5), (17, 4)):
        shares = quotas(episodes, envs).tolist()
        assert sum(shares) == episodes
        assert max(shares) - min(shares) <= 1


def test_score_is_the_textbook_statistics() -> None:
    returns = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    games = [Game(ret, 10 * index, index == 2) for index, ret in enumerate(returns)]
    found = score(games, Reference(1.0, 3.0))
    assert found.mean == pytest.approx(statistics.mean(returns))
    assert found.median == statistics.median(returns)
    assert found.std == pytest.approx(statistics.stdev(returns))
    assert found.standard_error == pytest.approx(statistics.stdev(returns) / 6**0.5)
    assert (found.min, found.max, found.mean_length) == (1.0, 9.0, 25.0)
    assert (found.episodes, found.truncated) == (6, 1)
    assert found.human_normalised_percent == pytest.approx((23 / 6 - 1) / 2 * 100)
    single = score([Game(2.0, 7, False)], None)
    assert (single.mean, single.std, single.standard_error) == (2.0, None, None)
    assert single.human_normalised_percent is None


def test_published_scores() -> None:
    six = {
        "BeamRider": (363.9, 16926.5),
        "Breakout": (1.7, 30.5),
        "Pong": (-20.7, 14.6),
        "Qbert": (163.9, 13455.0),
        "Seaquest": (68.4, 42054.7),
        "SpaceInvaders": (148.0, 1668.7),
    }
    for game, scores in six.items():
        assert reference_for(f"ALE/{game}-v5") == scores
    assert reference_for("CartPole-v1") is None
    assert reference_for("ALE/VideoPinball-v5") is None
    assert len(REFERENCES) == 56
    assert set(REFERENCES) <= {rom(f"ALE/{game}-v5") for game in list_games()}
    assert all(reference.random < reference.human for reference in REFERENCES.values())


# --- the command ---


def test_evaluation_scores_whole_games_by_true_rewards() -> None:
    trained = EnvironmentConfig("ALE/Pong-v5", 4, "machado", sticky_actions=0.1, frame_skip=3)
    plain = evaluation.evaluation_environment(trained, EvaluationConfig())
    assert plain == dataclasses.replace(
        trained, num_envs=16, life_loss_ends=False, clip_rewards=False
    )
    asked = EvaluationConfig(noop_max=0, max_frames=50, sticky_actions=0.25, episodes=3)
    changed = evaluation.evaluation_environment(trained, asked)
    assert (changed.noop_max, changed.max_frames, changed.sticky_actions) == (0, 50, 0.25)
    assert (changed.num_envs, changed.fire_reset, changed.max_episode_steps) == (3, None, None)
    asked = EvaluationConfig(fire_reset=True, max_episode_steps=9)
    changed = evaluation.evaluation_environment(trained, asked)
    assert (changed.fire_reset, changed.max_episode_steps, changed.noop_max) == (True, 9, None)
    gym = evaluation.evaluation_environment(EnvironmentConfig("CartPole-v1"), EvaluationConfig())
    assert (gym.noop_max, gym.max_frames, gym.sticky_actions) == (None, None, None)


PROTOCOLS = [
    (EnvironmentConfig("ALE/Breakout-v5"), "fewer than 30 no-ops, FIRE at reset", None),
    (
        EnvironmentConfig("ALE/Breakout-v5", protocol="machado"),
        "sticky 0.25, no no-ops, no FIRE at reset",
        "sticky actions 0.25 (theirs 0), noop max 0 (theirs 30)",
    ),
    (
        EnvironmentConfig("ALE/Breakout-v5", frame_skip=2, fire_reset=False),
        "fewer than 30 no-ops, no FIRE at reset, frame skip 2",
        "frame skip 2 (theirs 4)",
    ),
    (
        EnvironmentConfig("ALE/Breakout-v5", max_episode_steps=50),
        "200 frames",
        "max frames 200 (theirs 108000)",
    ),
]


@pytest.mark.parametrize(("trained", "protocol", "unlike"), PROTOCOLS)
def test_evaluation_follows_the_training_and_compares_where_that_is_fair(
    trained: EnvironmentConfig, protocol: str, unlike: str | None
) -> None:
    environment = evaluation.evaluation_environment(trained, EvaluationConfig())
    played = resolve(environment)
    assert protocol in played.describe()
    assert misfit(played) == unlike
    assert dataclasses.replace(
        played, life_loss_ends=resolve(trained).life_loss_ends, clip_rewards=True
    ) == resolve(trained)


def test_a_percentage_is_given_where_the_reference_fits(breakout: Path) -> None:
    agent = galamp.load(breakout)
    spec = EnvironmentSpec(
        "ALE/Breakout-v5", (4, 84, 84), "uint8", DiscreteActions(4), ("",) * 4, 4, False, "-"
    )
    games = [[Game(30.5, 10, False), Game(1.7, 10, False)]]
    for config, percent in (("classic", 50.0), ("machado", None)):
        atari = resolve(EnvironmentConfig("ALE/Breakout-v5", protocol=config))
        scores = evaluation._scores(spec, atari, [agent], games)
        found = scores["results"][0]["human_normalised_percent"]
        assert found == (None if percent is None else pytest.approx(percent))
        assert (scores["reference"] is None) == (percent is None)
        assert (scores["reference_misfit"] is None) == (percent is not None)


@pytest.mark.parametrize("protocol", ["classic", "machado"])
@pytest.mark.parametrize(
    "env_id", ["ALE/Breakout-v5", also("ALE/Pong-v5"), also("ALE/Seaquest-v5")]
)
def test_a_checkpoint_of_before_the_fire_setting_is_played_with_fire(
    tmp_path: Path, env_id: str, protocol: str
) -> None:
    identity = dataclasses.replace(BREAKOUT, env_id=env_id)
    path = saved(tmp_path, identity, 1)
    content = checkpoints.load(path)
    content.config["environment"]["protocol"] = protocol
    del content.config["environment"]["fire_reset"]
    old = read(checkpoints.save(tmp_path / "old", content))
    played = evaluation.evaluation_environment(old.environment, EvaluationConfig())
    assert resolve(played).fire_reset is True
    asked = evaluation.evaluation_environment(old.environment, EvaluationConfig(fire_reset=False))
    assert resolve(asked).fire_reset is False


class Endless(gymnasium.Env[Any, Any]):
    """Nothing ever ends it."""

    observation_space = Box(-1, 1, (4,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, Any]:
        return np.zeros(4, np.float32), 1.0, False, False, {}


def with_own_limit() -> gymnasium.Env[Any, Any]:
    """Make one that ends episodes of itself, after 12 steps, and says so."""
    return gymnasium.make("galamp/Endless-v0", max_episode_steps=12)


gymnasium.register("galamp/Endless-v0", entry_point=Endless)
gymnasium.register("galamp/Limited-v0", entry_point=Endless, max_episode_steps=12)
DEFAULT = 40

ENDLESS: list[tuple[str, list[str], int, str]] = [
    # without a limit of its own: eval's
    (f"{__name__}:Endless", [], DEFAULT, "40 agent steps (--max-episode-steps)"),
    ("galamp/Endless-v0", [], DEFAULT, "40 agent steps (--max-episode-steps)"),
    # with one
    (f"{__name__}:with_own_limit", [], 12, "12 agent steps, the environment's own limit"),
    ("galamp/Limited-v0", [], 12, "12 agent steps, the environment's own limit"),
    # asked for
    (f"{__name__}:Endless", ["--max-episode-steps", "7"], 7, "7 agent steps"),
    ("galamp/Limited-v0", ["--max-episode-steps", "7"], 7, "7 agent steps (--max-episode-steps)"),
]


@pytest.mark.parametrize(("env_id", "flags", "length", "by"), ENDLESS)
def test_games_that_would_never_end_are_cut(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    env_id: str,
    flags: list[str],
    length: int,
    by: str,
) -> None:
    at_once(monkeypatch)
    monkeypatch.setattr(whole_games, "STEP_LIMIT", DEFAULT)
    saved(tmp_path, dataclasses.replace(CARTPOLE, env_id=env_id), 1)
    file = tmp_path / "result.json"
    words = ["--episodes", "3", "--num-envs", "2", "--output", str(file), *flags]
    own = ["--env-id", env_id] if ":" in env_id else []
    assert main(["eval", str(tmp_path), *words, *own]) == 0
    report = json.loads(file.read_text())
    (row,) = report["results"]
    assert (row["lengths"], row["truncated"]) == ([length] * 3, 3)
    limited = flags or length == DEFAULT
    assert report["max_episode_steps"] == length
    assert report["own_step_limit"] == (not limited)
    assert (f", cut after {length} agent steps" in report["protocol"]) == bool(limited)
    table = " ".join(capsys.readouterr().out.split())
    assert f"Cut: 3 episodes were ended by {by}" in table


@pytest.mark.real
def test_atari_games_are_cut_by_the_lower_of_both_limits(
    breakout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once(monkeypatch)
    file = tmp_path / "result.json"
    words = ["--episodes", "1", "--max-episode-steps", "9", "--greedy", "--output", str(file)]
    assert main(["eval", str(breakout), *words]) == 0
    report = json.loads(file.read_text())
    assert (report["results"][0]["lengths"], report["max_frames"]) == ([9], 36)
    assert "36 frames" in report["protocol"]
    assert "Cut: 1 episodes were ended by 36 emulator frames; a greedy" in capsys.readouterr().out
    trained = read(locate(breakout).path).environment
    assert evaluation.with_step_limit(trained, describe(trained)) == trained


def test_the_default_limit_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    assert str(STEP_LIMIT) in " ".join(capsys.readouterr().out.split())
    assert STEP_LIMIT == 100_000


# --- environments that fail ---


def test_what_an_environment_raises_is_told_with_its_place(
    cartpole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_once(monkeypatch)
    spec = describe(EnvironmentConfig("CartPole-v1"))
    monkeypatch.setattr(evaluation, "finish_probe", lambda _: spec)
    for moment in ("reset", "step"):
        with monkeypatch.context() as patch:
            patch.setattr(f"gymnasium.envs.classic_control.CartPoleEnv.{moment}", fail)
            assert main(["eval", str(cartpole), "--episodes", "1", "--quiet"]) == 70
        first, second, *_, last = capsys.readouterr().err.splitlines()
        assert first.startswith("galamp: CartPole-v1: raised LookupError: no such level (")
        assert first.endswith(f"test_evaluate.py:{fail.__code__.co_firstlineno + 1} in fail)")
        assert second == "Traceback (most recent call last):"
        assert "environment 0 has seed" in last


def fail(*arguments: object, **known: object) -> None:
    raise LookupError("no such level")


def test_an_environment_that_draws_from_shared_generators_is_repeated(tmp_path: Path) -> None:
    config = EnvironmentConfig("tests.support.randomness:drawing")
    spec = describe(config)
    played = []
    for seed in (1, 1, 2):
        how = EvaluationConfig(seed=seed, episodes=2)
        agents: Any = [Choosing(), Choosing()]
        environment = dataclasses.replace(config, num_envs=2)
        games, _ = evaluation._play_all(agents, environment, how, Progress(True, [0]))
        played.append([game.ret for game in games[0]])
        assert games[0] == games[1], "all agents play under the same conditions"
    assert spec.max_episode_steps is None
    assert played[0] == played[1] != played[2]


class Choosing:
    """An agent that always takes the first action."""

    learner = 0

    def seed(self, seed: int) -> None:
        pass

    def reset(self) -> None:
        pass

    def policy_actions(self, observations: Any, *, greedy: bool, **_: Any) -> Any:
        return np.zeros(len(observations), np.int64)


def test_an_environment_that_cannot_be_closed_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_once(monkeypatch)
    env_id = "tests.support.misbehaving:RaisingInClose"
    saved(tmp_path, dataclasses.replace(CARTPOLE, env_id=env_id, observation_shape=(2,)), 1)
    words = ["--episodes", "1", "--max-episode-steps", "5", "--env-id", env_id]
    assert main(["eval", str(tmp_path), *words]) == 0
    captured = capsys.readouterr()
    assert "1 episodes each" in captured.out
    assert "OSError: the window is closed already" in captured.err


def test_nobody_who_reads_the_progress_is_needed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as lost, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", lost)
        progress = Progress(False, [0], clock=itertools.count(0.0, 60.0).__next__)
        with progress.of("mean", 3) as tally:
            for _ in range(3):
                tally.stepped(2)
                tally.game(Game(1.0, 2, False))
    assert progress.done == [3]


# --- progress without a terminal ---


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 500.0

    def __call__(self) -> float:
        return self.now_s


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_line_at_most_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock, done = Clock(), [0]
    progress = Progress(False, done, clock=clock)
    with progress.of("mean", 30) as tally:
        for _ in range(100):  # 9.9 s
            tally.stepped(2)
            clock.now_s += 0.099
        assert told(capsys) == []
        clock.now_s += 0.2
        tally.stepped(2)
        # No game has ended yet, and it is said all the same.
        start = "mean of learners: 0 of 30 games, mean score so far"
        assert told(capsys) == [f"{start} {UNKNOWN}, 202 agent steps played"]
        for ret in (4.0, 5.0):
            tally.game(Game(ret, 3, False))
        tally.stepped(2)
        assert told(capsys) == []
        clock.now_s += 10.0
        tally.stepped(1)
        tally.stepped(1)
        line = "mean of learners: 2 of 30 games, mean score so far 4.50, 205 agent steps played"
        assert told(capsys) == [line]
    clock.now_s += 7.0
    with progress.of(3, 30) as tally:  # of the next agent, too
        tally.stepped(1)
        assert told(capsys) == []
        clock.now_s += 7.0
        tally.stepped(1)
        line = f"learner 3: 0 of 30 games, mean score so far {UNKNOWN}, 2 agent steps played"
        assert told(capsys) == [line]
    assert done == [2]


def test_quiet_progress_says_nothing_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    clock, done = Clock(), [0]
    with Progress(True, done, clock=clock).of("mean", 30) as tally:
        clock.now_s += 1000.0
        tally.stepped(2)
        tally.game(Game(1.0, 3, False))
    assert told(capsys) == []
    assert done == [1]


def test_lines_come_while_games_are_played(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    courses = [[Game(0.0, 50, False)] * 3] * 2

    def act(observations: NDArray[Any], *_: object) -> NDArray[np.int64]:
        clock.now_s += 4.0
        return np.zeros(len(observations), np.int64)

    with Progress(False, [0], clock=clock).of(0, 4) as tally:
        play(Scripted(courses), act, 4, tally.game, tally.stepped)
    lines = told(capsys)
    assert len(lines) == 102 * 4 // 12, "every third step: the first at which ten seconds are over"
    assert lines[0].startswith("learner 0: 0 of 4 games")
    assert lines[-1] == "learner 0: 4 of 4 games, mean score so far 0.00, 204 agent steps played"


@pytest.mark.real
def test_cartpole_from_the_command_line(
    cartpole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    seeds: list[int] = []
    seed_agent = Agent.seed

    def noted(self: Agent, seed: int) -> None:
        seeds.append(seed)
        seed_agent(self, seed)

    monkeypatch.setattr(Agent, "seed", noted)
    words = (cartpole, "--episodes", "7", "--num-envs", "3", "--learner", "each")
    report = answer(capsys, *words, "--seed", "3")
    rows = report["results"]
    assert [row["learner"] for row in rows] == [0, 1, 2, "mean"]
    for row in rows:
        # In CartPole every step is worth 1.
        assert row["returns"] == row["lengths"]
        assert row["episodes"] == len(row["returns"]) == 7
        assert row["mean"] == pytest.approx(statistics.mean(row["returns"]))
        assert (row["min"], row["max"]) == (min(row["returns"]), max(row["returns"]))
        assert row["human_normalised_percent"] is None
    assert (report["env_id"], report["agent_steps"], report["num_envs"]) == ("CartPole-v1", 700, 3)
    assert (report["seed"], report["greedy"], report["reference"]) == (3, False, None)
    assert report["checkpoint"] == str(cartpole.resolve() / "checkpoints" / "ckpt-000000000700")
    assert report["versions"]["galamp"] == galamp.__version__
    assert "command" in report
    files = list(cartpole.glob("eval-ckpt-000000000700-each-*.json"))
    assert [json.loads(file.read_text()) for file in files] == [report]
    # The agents play from the same seed of the sampling, which comes from --seed.
    first = seeds[-4:]
    assert len(set(first)) == 1
    again = answer(capsys, *words, "--seed", "3")
    assert again["results"] == rows
    assert len(list(cartpole.glob("eval-*-each-*.json"))) == 2
    other = answer(capsys, *words, "--seed", "4")
    assert other["results"] != rows
    assert seeds[-4:] != first
    # Greedy agents draw nothing: what is left to differ are the games.
    greedy = [
        answer(capsys, cartpole, "--episodes", "5", "--greedy", "--seed", seed)["results"]
        for seed in ("3", "3", "4")
    ]
    assert greedy[0] == greedy[1] != greedy[2]


@pytest.mark.real
def test_breakout_from_the_command_line(
    breakout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    words = ["--episodes", "2", "--max-frames", "200", "--greedy", "--output", str(file)]
    assert main(["eval", str(breakout), "--sticky-actions", "0.25", *words]) == 0
    captured = capsys.readouterr()
    report = json.loads(file.read_text())
    (row,) = report["results"]
    assert (row["learner"], row["truncated"], row["lengths"]) == ("mean", 2, [50, 50])
    assert row["human_normalised_percent"] is report["reference"] is None
    told = ("sticky 0.25", "fewer than 30 no-ops, FIRE at reset", "life loss ignored")
    for words_ in (*told, "rewards not clipped"):
        assert words_ in report["protocol"]
    table = captured.out
    assert "after 12,345 agent steps" in table
    assert "2 episodes each, actions most probable, seed 1" in table
    assert "Cut: 2 episodes were ended by 200 emulator frames; a greedy agent can stall" in table
    unlike = "sticky actions 0.25 (theirs 0), max frames 200 (theirs 108000)"
    assert report["reference_misfit"] == unlike
    assert "Human: no percentage" in table
    assert unlike in " ".join(table.split())
    assert "%" not in table
    assert captured.err == f"{STARTING}written: {file}\n"


def test_user_errors_are_one_line(
    cartpole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.json"
    there.write_text("mine")
    mistakes: list[tuple[str, tuple[str | Path, ...]]] = [
        ("no such path", (tmp_path / "none",)),
        ("--episodes 0: expected a whole number from 1", (cartpole, "--episodes", "0")),
        ("--sticky-actions 1.5: expected a number", (cartpole, "--sticky-actions", "1.5")),
        ("--which newest: expected one of best, latest", (cartpole, "--which", "newest")),
        ("--learner last: expected mean, each", (cartpole, "--learner", "last")),
        ("no learner [8]", (cartpole, "--learner", "8")),
        ("exists already", (cartpole, "--output", there)),
        ("no folder that can be written to", (cartpole, "--output", tmp_path / "no" / "x.json")),
        ("--device tpu", (cartpole, "--device", "tpu")),
        ("only for Atari games", (cartpole, "--noop-max", "3")),
        ("--gredy", (cartpole, "--gredy")),
    ]
    for words, arguments in mistakes:
        assert words in complaint(capsys, *arguments)
    assert there.read_text() == "mine"


def test_a_report_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / "eval.json"
    target.write_text("mine")
    assert evaluation.write(target, {"a": 1}) == tmp_path / "eval-2.json"
    assert evaluation.write(target, {"a": 2}) == tmp_path / "eval-3.json"
    assert target.read_text() == "mine"
    assert json.loads((tmp_path / "eval-2.json").read_text()) == {"a": 1}


def test_a_full_disk_does_not_lose_the_result(
    cartpole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(28, "No space left on device")

    at_once(monkeypatch)
    monkeypatch.setattr(evaluation, "write_new", refuse)
    file = tmp_path / "result.json"
    assert main(["eval", str(cartpole), "--episodes", "1", "--output", str(file)]) == 70
    captured = capsys.readouterr()
    assert "1 episodes each" in captured.out
    assert captured.err == f"{STARTING}galamp: {file} not written: No space left on device\n"
    assert not file.exists()


def test_interrupted_games_leave_nothing(
    cartpole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_once(monkeypatch)
    act = Agent.policy_actions
    calls = []

    def interrupted(self: Agent, observations: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 400:
            raise KeyboardInterrupt
        return act(self, observations, **more)

    monkeypatch.setattr(Agent, "policy_actions", interrupted)
    words = ["--episodes", "100", "--num-envs", "1", "--output", str(tmp_path / "result.json")]
    assert main(["eval", str(cartpole), *words]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.removeprefix(STARTING)
    assert line.startswith("galamp: interrupted after ")
    assert line.endswith(" games; nothing written\n")
    assert int(line.split()[3]) > 0
    assert list(tmp_path.iterdir()) == []


def test_table_fits_a_narrow_terminal() -> None:
    games = [Game(12_345.0, 9_876, False), Game(100.0, 20, True), Game(33_333.0, 77, False)]
    rows = [
        {"learner": n, "mean_of": 3, **score(games, Reference(1.0, 9e4)).to_dict()}
        for n in (0, 10, "mean")
    ]
    report = {
        "env_id": "ALE/Qbert-v5",
        "agent_steps": 50_000_000,
        "protocol": "classic",
        "checkpoint": "runs/a",
        "greedy": False,
        "seed": 1,
        "max_frames": 108_000,
        "max_episode_steps": None,
        "own_step_limit": False,
        "results": rows,
        "reference_misfit": None,
        "reference": {"random": 1.0, "human": 9e4, "source": "a table"},
    }
    for width in (80, 120):
        file = io.StringIO()
        show(report, file, width)
        lines = file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        by_first = {line.split()[0]: line.split() for line in lines if line.split()}
        headings = "learner mean std err median std min max length cut human"
        assert " ".join(by_first["learner"]) == headings
        std = statistics.stdev(game.ret for game in games)
        assert by_first["mean"] == [
            *("mean", "15,259.3", f"{std / 3**0.5:,.1f}", "12,345.0", f"{std:,.1f}"),
            *("100.00", "33,333.0", "3,324.3", "1", "17.0%"),
        ]
        assert not any("…" in line for line in lines)


def test_the_package_and_the_options_stay_light() -> None:
    heavy = ("torch", "numpy", "gymnasium", "ale_py", "rich")
    code = (
        "import argparse, sys, galamp, galamp.tools.evaluation.command;"
        "galamp.tools.evaluation.command.add_options(argparse.ArgumentParser());"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = galamp.lod
