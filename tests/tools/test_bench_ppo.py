"""`bin/bench peers --algorithm ppo`: what each system is told, and the plain loop's parts."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galamp.core.errors import UserError
from galamp.tools.bench import cli, commands, peers, runs
from galamp.tools.bench.peer_scripts import plain_ppo
from galamp.tools.bench.peer_scripts.plain_ppo import Batch
from galamp.tools.bench.runs import Measurement, System
from tests.support.command_lines import parsed
from tests.tools.test_bench import unchanged

__all__ = ["unchanged"]

pytestmark = pytest.mark.real  # for it plays

PPO = runs.Workload("ALE/Pong-v5", "pong", 2, 4, "nature", algorithm="ppo")


# Systems


def test_commands_of_systems() -> None:
    ours = " ".join(runs.galamp_system(PPO).command)
    assert "--preset ppo-atari" in ours
    assert "--preset" not in " ".join(runs.galamp_system(replace(PPO, algorithm="a2c")).command)
    theirs = {
        name: " ".join(peers.peer_system(peer, PPO, Path("python")).command)
        for name, peer in peers.PEERS["ppo"].items()
    }
    assert list(theirs) == [*peers.PEERS["a2c"], "envpool-loop"]
    what = "--game pong --num-envs 8 --network nature"
    assert theirs["stable-baselines3"].endswith(f"/sb3.py {what} --algorithm ppo")
    assert theirs["sample-factory"].endswith(f"/sample_factory_appo.py {what} --algorithm ppo")
    assert theirs["plain-loop"].endswith(f"/plain_ppo.py {what}")
    assert theirs["envpool-loop"].endswith(f"/plain_ppo.py {what} --vector envpool")


def test_galamp_has_the_settings_of_the_peers() -> None:
    """What the plain loop's constants are, the preset has too."""
    words = runs.galamp_system(PPO).command
    algorithm: Any = parsed(*words[words.index("run") + 1 :]).algorithm
    assert algorithm.algorithm == "ppo"
    assert algorithm.num_steps == plain_ppo.NUM_STEPS
    assert algorithm.update_epochs == plain_ppo.EPOCHS
    assert algorithm.num_minibatches == plain_ppo.MINIBATCHES
    assert algorithm.clip_coef == plain_ppo.CLIP
    assert algorithm.gamma == plain_ppo.GAMMA
    assert algorithm.gae_lambda == plain_ppo.GAE_LAMBDA
    assert algorithm.ent_coef == plain_ppo.ENT_COEF
    assert algorithm.vf_coef == plain_ppo.VF_COEF
    assert algorithm.max_grad_norm == plain_ppo.MAX_GRAD_NORM
    assert algorithm.adam_eps == plain_ppo.ADAM_EPS
    assert algorithm.default_learning_rate(1) == plain_ppo.LEARNING_RATE


@pytest.mark.parametrize(
    ("algorithm", "name"), [(of, name) for of, known in peers.PEERS.items() for name in known]
)
def test_scripts_take_what_they_are_given(algorithm: str, name: str) -> None:
    """They cannot be run without the peer, so their options are read from their sources."""
    peer = peers.PEERS[algorithm][name]
    workload = replace(PPO, algorithm=algorithm, precision="bf16")
    words = peers.peer_system(peer, workload, Path("python")).command
    given = {word for word in words if word.startswith("--")} | {"--seed", "--run-dir"}
    source = (peers.SCRIPTS / peer.script).read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    options = {
        call.args[0].value: call
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        if isinstance(call.args[0], ast.Constant)
    }
    required = {
        option
        for option, call in options.items()
        if any(word.arg == "required" for word in call.keywords)
    }
    assert required <= given <= set(options)


def test_environments_are_shared_by_the_algorithms() -> None:
    """A peer's packages are installed once, whichever algorithm is measured."""
    for name in peers.PEERS["a2c"]:
        peer, other = peers.PEERS["ppo"][name], peers.PEERS["a2c"][name]
        assert (peer.requirements, peer.exceptions) == (other.requirements, other.exceptions)


def test_chosen_peers() -> None:
    assert [peer.name for peer in peers.chosen([], PPO)] == list(peers.PEERS["a2c"])
    assert [peer.name for peer in peers.chosen(["envpool-loop"], PPO)] == ["envpool-loop"]
    with pytest.raises(UserError, match="--peer envpool-loop: expected one of"):
        peers.chosen(["envpool-loop"], replace(PPO, algorithm="a2c"))
    odd = replace(PPO, num_envs=3)
    with pytest.raises(UserError, match="multiple of 4 environments, here 6 of all learners"):
        peers.chosen([], odd)
    assert len(peers.chosen(["stable-baselines3", "plain-loop"], odd)) == 2
    assert len(peers.chosen([], replace(odd, algorithm="a2c"))) == 3
    with pytest.raises(UserError, match="plain-loop trains nature only"):
        peers.chosen(["plain-loop"], replace(PPO, network="gala"))


@pytest.mark.parametrize(
    ("words", "algorithm", "num_envs"),
    [
        ("", "a2c", 16),
        ("--algorithm ppo", "ppo", 4),
        ("--algorithm ppo --num-envs 8", "ppo", 8),
    ],
)
def test_measured_in_turns(
    words: str, algorithm: str, num_envs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[runs.Workload] = []

    def galamp(workload: runs.Workload) -> System:
        told.append(workload)
        return System("galamp", ())

    def measured(system: System, number: int, **_: Any) -> Measurement:
        order.append((number, system.name))
        return Measurement(system.name, number, 100.0, 400.0, 1.0, 500.0, 1, 0.5, 0.0)

    order: list[tuple[int, str]] = []
    monkeypatch.setattr(commands, "galamp_system", galamp)
    monkeypatch.setattr(System, "measure", measured)
    peer = "--peer plain-loop --repeats 2"
    assert cli.main(f"peers {peer} {words}".split()) == 0
    assert [(one.algorithm, one.num_envs, one.learners) for one in told] == [
        (algorithm, num_envs, 2)
    ]
    assert order == [(1, "galamp"), (1, "plain-loop"), (2, "galamp"), (2, "plain-loop")]


def test_unknown_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["peers", "--algorithm", "pqn"])
    assert left.value.code == 2
    assert "pqn" in capsys.readouterr().err


# The plain loop


def test_advantages() -> None:
    generator = np.random.default_rng(0)
    shape = steps, envs = 6, 30
    rewards, values = generator.normal(size=shape), generator.normal(size=(steps + 1, envs))
    ended = (generator.random(shape) < 0.25).astype(float)
    expected = np.zeros(shape)
    for env_index in range(envs):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                over = ended[k, env_index] == 1
                ahead = 0.0 if over else plain_ppo.GAMMA * values[k + 1, env_index]
                error = rewards[k, env_index] + ahead - values[k, env_index]
                expected[t, env_index] += weight * error
                weight *= plain_ppo.GAMMA * plain_ppo.GAE_LAMBDA
                if over:
                    break
    given = map(torch.from_numpy, (rewards, ended, values[:-1], values[-1]))
    np.testing.assert_allclose(plain_ppo.advantages_of(*given).numpy(), expected, rtol=1e-6)


def test_loss() -> None:
    torch.manual_seed(0)
    before, now, old, new, advantages, returns, entropies = torch.randn(7, 50).double().unbind()
    batch = Batch(torch.empty(50), torch.empty(50), before, old, advantages, returns)
    normal = ((advantages - advantages.mean()) / advantages.std()).tolist()
    expected, clipped_values = 0.0, 0
    for n in range(50):
        ratio = float((now[n] - before[n]).exp())
        bounded = min(max(ratio, 0.9), 1.1)
        expected -= min(normal[n] * ratio, normal[n] * bounded) / 50
        change = min(max(float(new[n] - old[n]), -0.1), 0.1)
        errors = float(new[n] - returns[n]) ** 2, float(old[n] + change - returns[n]) ** 2
        clipped_values += errors[1] > errors[0]
        expected += 0.25 * max(errors) / 50 - 0.01 * float(entropies[n]) / 50
    assert 5 < clipped_values < 45  # both kinds are there
    assert float(plain_ppo.loss_of(now, new, entropies, batch)) == pytest.approx(expected)


def test_games_of_lives() -> None:
    """Five lives are five episodes of one game; rewards are signs; the ball is in play at once."""
    game = plain_ppo.make_game("breakout")
    inner: Any = game.unwrapped
    seen, _ = game.reset(seed=1)
    assert (seen.shape, seen.dtype) == ((4, 84, 84), np.uint8)
    game.action_space.seed(1)
    left, frames = [inner.ale.lives()], [inner.ale.getEpisodeFrameNumber()]
    while len(left) < 7:
        _, reward, terminated, truncated, _ = game.step(game.action_space.sample())
        assert reward in (0.0, 1.0)
        assert not truncated
        if terminated:
            game.reset()
            left.append(inner.ale.lives())
            frames.append(inner.ale.getEpisodeFrameNumber())
    assert left == [5, 4, 3, 2, 1, 5, 4]
    assert frames[1:5] == sorted(frames[1:5])
    assert frames[5] < 100 < frames[4]
    game.close()


def test_loop_plays_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_ppo, "NUM_STEPS", 16)
    loop = plain_ppo.Loop("breakout", 2, seed=3)
    batch = loop.rollout()
    assert batch.observations.shape == (32, 4, 84, 84)
    assert all(len(part) == 32 for part in batch)
    policy, values = loop.network(batch.observations)
    torch.testing.assert_close(policy.log_prob(batch.actions), batch.log_probs)
    torch.testing.assert_close(values, batch.values)
    frames = batch.observations.view(16, 2, 4, 84, 84)
    assert (frames[1:, :, :3] == frames[:-1, :, 1:]).flatten(2).all(2).any()  # they move on
    before = [p.detach().clone() for p in loop.network.parameters()]
    assert np.isfinite(loop.update())
    assert all((a != b).any() for a, b in zip(before, loop.network.parameters(), strict=True))
