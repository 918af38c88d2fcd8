"""`galamp export`: the same function in another format, described, or no file at all."""

from __future__ import annotations

import dataclasses
import importlib
import json
import resource
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import galamp
from galamp.cli.main import main
from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions
from galamp.core.config import SQUASH
from galamp.core.errors import GalampError, UserError
from galamp.environments import describe
from galamp.tools.evaluation import agent as agents
from galamp.tools.evaluation.agent import Agent
from galamp.tools.export import export as exports
from galamp.tools.export import formats, verification
from galamp.tools.export.description import from_logits
from galamp.tools.export.export import _write, converted
from galamp.tools.export.formats import Example, Format, Function, format_of
from galamp.tools.export.torch_formats import SafetensorsFormat, TorchScriptFormat, function_of
from galamp.tools.export.verification import Recording, _actions, record, verify
from tests.support.engine import also
from tests.tools.test_evaluate import BREAKOUT, CARTPOLE, OBSERVATIONS, saved
from tests.tools.test_evaluate_normalised import saved_run
from tests.tools.test_memory import LSTM, VALUES, with_loud_policy

ONNX = ("onnx", "onnxruntime", "onnxscript")


def with_onnx() -> None:
    for name in ONNX:
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'galamp[onnx]'")


@pytest.fixture
def cartpole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two learners; environments are described in this process."""
    monkeypatch.setattr(agents, "start_probe", lambda config: config)
    monkeypatch.setattr(agents, "finish_probe", describe)
    monkeypatch.setattr(exports, "record", lambda agent, env: record(agent, env, 50))
    saved(tmp_path / "run", CARTPOLE, 2, steps=7)
    return tmp_path / "run"


def seen_by(agent: Agent, count: int = 300) -> Recording:
    """Observations without an environment, and states that are not zero."""
    random, shape = np.random.default_rng(4), agent.identity.observation_shape
    if len(shape) == 3:
        return Recording(random.integers(0, 256, (count, *shape), np.uint8), None)
    observations = random.normal(size=(count, *shape)).astype(np.float32)
    size = agent.module.state_size
    states = random.normal(size=(count, size)).astype(np.float32) * 0.5
    return Recording(observations, states if size else None)


def agent_of(name: str, folder: Path) -> Agent:
    if name == "normalised":
        return galamp.load(saved_run(folder / "c"), learner=1)
    identity = {"vectors": CARTPOLE, "images": BREAKOUT, "memory": LSTM, "values": VALUES}[name]
    saved(folder, identity, 2)
    agent = galamp.load(folder)
    return with_loud_policy(agent) if name == "memory" else agent


# --- formats ---


KINDS = ("vectors", "images", "memory", "values", "normalised")


@pytest.mark.parametrize(
    ("format", "name"),
    [
        *product(["torchscript"], KINDS),
        ("safetensors", "memory"),
        ("safetensors", "normalised"),
        *(also("safetensors", name) for name in ("vectors", "images", "values")),
    ],
)
def test_agents_of_every_kind_are_the_same_function(tmp_path: Path, name: str, format: str) -> None:
    agent = agent_of(name, tmp_path)
    content, verified = converted(agent, format_of(format), seen_by(agent))
    assert verified.observations == verified.same_actions + verified.near_ties == 300
    assert content


@pytest.mark.parametrize("name", ["memory", also("normalised"), also("images")])
def test_onnxruntime_computes_the_same(tmp_path: Path, name: str) -> None:
    """Inputs, outputs and states go by their names, in batches of any size."""
    with_onnx()
    agent = agent_of(name, tmp_path)
    content, verified = converted(agent, format_of("onnx"), seen_by(agent))
    assert verified.same_actions + verified.near_ties == 300
    session = importlib.import_module("onnxruntime").InferenceSession(content)
    inputs = {each.name: each.shape for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    memory = {"state": ["batch", 256]} if name == "memory" else {}
    assert inputs == {"observations": ["batch", *agent.identity.observation_shape], **memory}
    assert outputs == ["logits", "values", *(["next_state"] if memory else [])]


def test_torchscript_is_loaded_without_galamp(tmp_path: Path) -> None:
    agent = agent_of("vectors", tmp_path)
    content = TorchScriptFormat().written(agent.module, Example(OBSERVATIONS[:2], None))
    logits, values = TorchScriptFormat().read(content, agent.module)(OBSERVATIONS, None)
    np.testing.assert_allclose(logits, agent.logits(OBSERVATIONS), atol=1e-6)
    assert values.shape == (64,)


def test_safetensors_hold_all_that_the_module_needs(tmp_path: Path) -> None:
    agent = agent_of("normalised", tmp_path)
    content = SafetensorsFormat().written(agent.module, Example(OBSERVATIONS[:2], None))
    (tmp_path / "w.safetensors").write_bytes(content)
    kept = load_file(tmp_path / "w.safetensors")
    assert set(kept) == set(agent.module.state_dict())
    np.testing.assert_array_equal(kept["mean"], agent.module.mean)


# --- verification ---


class Wrong(Format):
    """Another network than the agent's."""

    ending = ".wrong"

    def written(self, module: Any, example: Example) -> bytes:
        return b"x"

    def read(self, content: bytes, module: Any) -> Function:
        def compute(observations: Any, states: Any) -> Any:
            logits, values = function_of(module)(observations, states)
            return [logits * np.float32(1.001), values]

        return compute


def test_an_export_that_differs_is_refused(tmp_path: Path) -> None:
    agent = agent_of("vectors", tmp_path)
    with pytest.raises(GalampError, match="nothing written: the export differs from the agent by"):
        converted(agent, Wrong(), seen_by(agent))


class Unwritable(Wrong):
    def written(self, module: Any, example: Example) -> bytes:
        raise RuntimeError("no operator\nof that kind")


def test_a_network_that_a_format_cannot_express_is_one_line(tmp_path: Path) -> None:
    agent = agent_of("vectors", tmp_path)
    with pytest.raises(GalampError, match=r"mlp cannot be exported .*: no operator of that kind"):
        converted(agent, Unwritable(), seen_by(agent))


def test_nan_and_other_shapes_are_differences(tmp_path: Path) -> None:
    agent = agent_of("vectors", tmp_path)
    recording = seen_by(agent, 10)
    good = function_of(agent.module)
    for spoil in (lambda a: a * np.nan, lambda a: a[:, :1]):
        with pytest.raises(GalampError, match="differs from the agent by inf"):
            verify(agent, lambda o, s, f=spoil: [f(good(o, s)[0]), good(o, s)[1]], recording)


def test_actions_that_are_as_good_are_near_ties(tmp_path: Path) -> None:
    policy = agent_of("vectors", tmp_path).policy.distribution
    wanted = np.float32([[1.0, 1.0 + 1e-6], [0.0, 1.0], [0.0, 0.1]])
    found = np.float32([[1.0 + 1e-6, 1.0], [0.0, 1.0], [0.1, 0.0]])
    assert _actions(policy, wanted, found) == (1, 1)


def test_recorded_states_are_those_before_the_observations(tmp_path: Path) -> None:
    agent = agent_of("memory", tmp_path)
    recording = record(agent, agent.env(), 60)
    states = recording.states
    assert states is not None
    begins = ~states.any(1)
    assert begins[0]
    assert 1 < begins.sum() < 20, "several episodes"
    follows = np.flatnonzero(~begins)
    before = (states[follows - 1],)
    _, after = agent.predict(recording.observations[follows - 1], before)
    assert after is not None
    np.testing.assert_allclose(after[0], states[follows], atol=1e-6)


# --- command ---


def answer(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    try:
        found: object = main(["export", *map(str, words)])
    except SystemExit as error:
        found = error.code
    captured = capsys.readouterr()
    assert found == code, captured.err
    return captured.out if code == 0 else captured.err.splitlines()[-1]


def test_the_file_and_its_description(cartpole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = cartpole / "policy.pt"
    words = (cartpole, "--format", "torchscript", "-o", file)
    told = answer(capsys, 0, *words)
    assert "verified on 50 observations of games: the same action for" in told
    known = json.loads((cartpole / "policy.pt.json").read_text())
    assert known["observations"] | {"made_of": ""} == {
        "shape": ["batch", 4], "dtype": "float32", "made_of": "", "scale": 1.0,
        "scaled": "inside: give observations as they are", "normalised": "no",
    }  # fmt: skip
    assert known["protocol"] == "gymnasium: rewards not clipped"
    assert known["actions"]["meanings"] == ["0", "1"]
    assert known["outputs"] == {"logits": ["batch", 2], "values": ["batch"]}
    assert (known["learner"], known["agent_steps"], known["file"]) == ("mean", 7, "policy.pt")
    before = file.read_bytes()
    assert "policy.pt: exists; choose another --output" in answer(capsys, 2, *words)
    assert file.read_bytes() == before
    answer(capsys, 0, *words, "--which", 1, "--overwrite")
    assert json.loads((cartpole / "policy.pt.json").read_text())["learner"] == 1
    weights = (cartpole, "--format", "safetensors", "--which", "latest")
    answer(capsys, 0, *weights)
    assert (cartpole / "export-ckpt-000000000007-mean.safetensors.json").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--which", "all"), "--which all: expected best or latest"),
        (("--learner", "all"), "--learner all: expected mean, or a learner's rank such as 0"),
        (("--learner", "0", "--which", "1"), "--learner 0 --which 1: two learners"),
        (("--which", "best"), "has no best checkpoint; ask for the latest"),
        (("--which", "9"), "it has no learner [9], but 0 to 1"),
        (("--format", "tf"), "--format tf: expected one of onnx, torchscript, safetensors"),
        (("-o", "/nowhere/x.pt"), "/nowhere: no folder that can be written to"),
        (("-o", "/tmp"), "--output /tmp: is a folder; add a name"),
    ],
)
def test_mistakes_are_one_line(
    cartpole: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    more = () if "--format" in words else ("--format", "safetensors")
    assert line in answer(capsys, 2, cartpole, *words, *more)


def test_what_is_missing_for_onnx_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--format onnx: onnx, .* missing; choose another"):
        format_of("onnx")
    assert format_of("safetensors").ending == ".safetensors"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (DiscreteActions(3), "argmax"),
        (MultiDiscreteActions((2, 3)), "split by nvec"),
        (MultiBinaryActions(2), "1 where a logit is above 0"),
        (BoxActions((0.0,), (1.0,)), "clipped to low and high"),
        (BoxActions((0.0,), (1.0,), SQUASH), "tanh"),
    ],
)
def test_every_kind_of_actions_is_described(spec: ActionSpec, text: str) -> None:
    assert text in from_logits(spec)


def test_a_module_for_other_observations_shares_its_parameters(tmp_path: Path) -> None:
    agent = agent_of("images", tmp_path)
    images = np.random.default_rng(2).integers(0, 256, (3, 4, 84, 84), np.uint8)
    floats: nn.Module = agent.module_of("float32")
    with torch.no_grad():
        scaled, _ = floats(torch.from_numpy(images / np.float32(255)))
    np.testing.assert_allclose(scaled, agent.logits(images), atol=1e-5)
    assert dataclasses.asdict(agent.identity)["network"] == "gala"
    assert verification.OBSERVATIONS == 1000


@pytest.mark.parametrize("most_bytes", [100, 5_000])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_no_part_of_an_export(
    most_bytes: int, overwrite: bool, tmp_path: Path
) -> None:
    """Whether it refuses the file or, with the file on it, its description."""
    file, beside = tmp_path / "policy.pt", tmp_path / "policy.pt.json"
    if overwrite:
        file.write_text("mine")
        beside.write_text("mine, too")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        with pytest.raises(GalampError, match=r"policy\.pt not written: File too large"):
            _write(file, b"x" * 1_000, beside, b"y" * 10_000, overwrite)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert left == ({file.name: "mine", beside.name: "mine, too"} if overwrite else {})
