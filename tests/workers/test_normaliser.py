"""Normalisers of several learners in one process: what they pool, keep, and do to a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from galamp.algorithms.a2c import A2C
from galamp.algorithms.base import Acted
from galamp.algorithms.forward import Place
from galamp.algorithms.networks import build_model
from galamp.algorithms.normalising import layers_of
from galamp.core.errors import StopRun
from galamp.core.normalisation import WARM_UP, NormaliserSpec, Own, Saved, Scales
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.moment_slots import MomentSlots
from galamp.memory.rollouts import NUM_SLOTS, RolloutSlot
from galamp.workers.acting import HostActor
from galamp.workers.normaliser import Normaliser, Pool, Returns, Scaling
from tests.support.on_devices import ENVS as FEW_ENVS
from tests.support.on_devices import STEPS, a2c, rollout

INPUTS, ENVS, ROWS = 4, 8, 100
SPEC = NormaliserSpec(INPUTS, True, 0.9)
SCALES, MEANS = np.array([0.01, 1.0, 5.0, 200.0]), np.array([0.0, 4.0, -50.0, 300.0])
ALL = np.ones((ROWS, ENVS), np.bool_)


def slot_of(seed: int, *, valid: float = 0.9) -> RolloutSlot:
    """A rollout as simulators leave it: numbers of very different scales, every kind of flag."""
    draw = np.random.default_rng(seed)
    return RolloutSlot(
        observations=(draw.normal(size=(ROWS + 1, ENVS, INPUTS)) * SCALES + MEANS).astype("f4"),
        actions=np.zeros((ROWS, ENVS), np.int64),
        rewards=(3.0 * draw.normal(size=(ROWS, ENVS)) + 1.0).astype("f4"),
        terminated=draw.random((ROWS, ENVS)) < 0.05,
        truncated=draw.random((ROWS, ENVS)) < 0.05,
        valid=draw.random((ROWS, ENVS)) < valid,
        first=np.zeros((ROWS + 1, ENVS), np.bool_),
    )


class Team:
    """Learners with nothing but a network and a normaliser each."""

    def __init__(self, learners: int, *, synchronous: bool = False) -> None:
        specs = ControlBlock.specs(learners)
        for rank in range(learners):
            specs += MomentSlots.specs(rank, SPEC.own_size)
        self.arrays, self.synchronous = SharedArrays.create(specs), synchronous
        self.ranks, self.control = range(learners), ControlBlock(self.arrays)
        for rank in self.ranks:
            self.control.set_alive(rank, True)
        self.wakeups = tuple(Wakeup() for _ in self.ranks)
        self.models = [build_model("mlp", (INPUTS,), "float32", 2, seed=1) for _ in self.ranks]
        self.waits = 0
        self.normalisers = [self.join(rank) for rank in self.ranks]

    def join(self, rank: int, idle: Callable[[], None] | None = None) -> Normaliser:
        """A new process of learner `rank`."""
        pool = Pool(
            self.arrays, rank, self.ranks, self.synchronous, self.wakeups, idle or self.never
        )
        layers = layers_of(self.models[rank], "mlp", SPEC)
        return Normaliser(SPEC, pool, layers, envs=ENVS, device="cpu", clip_rewards=False)

    @staticmethod
    def never() -> None:
        raise AssertionError("nobody has to be waited for")

    def turns(self, numbers: Sequence[int]) -> None:
        """Let all play these turns, in each of which everyone's network changes a little."""
        for turn in numbers:
            for rank in self.ranks:
                self.play(rank, turn)
            for rank in self.ranks:
                self.normalisers[rank].publish(turn + 1)

    def play(self, rank: int, turn: int) -> bool:
        normaliser = self.normalisers[rank]
        learns = normaliser.start_turn(turn)
        normaliser.count(slot_of(10 * turn + rank), ALL)
        if learns:
            with torch.no_grad():
                for parameter in self.models[rank].parameters():
                    parameter.add_(1e-3 * torch.sin(parameter + turn))
        normaliser.end_turn()
        return learns

    def network(self, rank: int) -> Tensor:
        return nn.utils.parameters_to_vector(self.models[rank].parameters()).detach().clone()


def data_of(team: Team, turns: int) -> np.ndarray:
    """The observations that all have counted after so many turns."""
    slots = [slot_of(10 * turn + rank) for turn in range(turns) for rank in team.ranks]
    return np.concatenate([slot.observations[:-1][slot.valid] for slot in slots]).astype("f8")


@pytest.mark.parametrize("synchronous", [False, True])
def test_scales_are_of_the_data_of_all(synchronous: bool) -> None:
    team = Team(3, synchronous=synchronous)
    for normaliser in team.normalisers:
        normaliser.publish(0)
    team.turns(range(4))
    data = data_of(team, 4)
    for normaliser in team.normalisers:
        normaliser.start_turn(4)
        assert np.array_equal(normaliser.scales.mean, team.normalisers[0].scales.mean)
        assert np.allclose(normaliser.scales.mean, data.mean(0), rtol=1e-6)
        assert np.allclose(normaliser.scales.std, np.sqrt(data.var(0) + 1e-8), rtol=1e-5)
        assert normaliser.gauges()["norm_count"] == len(data)
        normaliser.end_turn()


def test_within_a_rollout_and_its_update_scales_are_fixed() -> None:
    team = Team(2)
    team.turns(range(3))
    mine, other = team.normalisers
    mine.start_turn(3)
    before = mine.scales.packed()
    mine.count(slot_of(77), ALL)
    other.count(slot_of(78), ALL)
    other.publish(4)
    assert np.array_equal(mine.scales.packed(), before)
    assert mine.scaling.return_std == mine.scales.return_std
    mine.end_turn()
    mine.start_turn(4)
    assert not np.array_equal(mine.scales.packed(), before)
    mine.end_turn()


def test_the_first_weights_are_for_normalised_observations() -> None:
    """Weights that are drawn for numbers near 1 must not be taken for those of raw numbers."""
    team = Team(1)
    fresh = team.network(0)
    assert not team.play(0, 0), "nothing is learned before there are scales"
    assert torch.equal(team.network(0), fresh)
    while team.normalisers[0].own.count < WARM_UP:
        team.play(0, 1)
    (normaliser,) = team.normalisers
    assert normaliser.start_turn(2)
    assert torch.equal(team.network(0), fresh)
    normaliser.end_turn()
    assert not torch.equal(team.network(0), fresh)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_network_of_others_is_no_initial_one(resumed: bool) -> None:
    """One that comes before there are scales is raw, however it came; also saved and resumed."""
    team = Team(1)
    saved = team.normalisers[0].saved()
    team.normalisers[0].restore(saved)  # of a checkpoint before there were scales
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in team.models[0].parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for trunk in (team.models[0].policy, team.models[0].value):  # type: ignore[attr-defined]
            trunk[0].weight.div_(torch.from_numpy(SCALES))
            trunk[0].bias.copy_(-trunk[0].weight @ torch.from_numpy(MEANS).float())
    raw = torch.from_numpy(slot_of(5).observations[0])
    with torch.no_grad():
        logits, values = team.models[0](raw)
    team.normalisers[0].rejoin()
    if resumed:
        saved = team.normalisers[0].saved()
        team.normalisers[0] = team.join(0)
        team.normalisers[0].restore(saved)
    (normaliser,) = team.normalisers
    for turn in range(2):
        assert not normaliser.start_turn(turn)
        slot = slot_of(turn)
        slot.rewards[:] *= 0.01  # a factor above 1 for the values
        normaliser.count(slot, ALL)
        normaliser.end_turn()
    assert normaliser.own.count > WARM_UP
    for turn in range(2, 4):
        assert normaliser.start_turn(turn)
        assert normaliser.scaling.observations is not None
        with torch.no_grad():
            found, scores = team.models[0](normaliser.scaling.observations(raw))
        torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            scores * normaliser.scales.return_std, values, rtol=1e-5, atol=1e-5
        )
        normaliser.count(slot_of(turn), ALL)
        normaliser.end_turn()


def test_a_learner_that_was_added_alone_keeps_the_function_of_its_raw_network() -> None:
    """The scales of its first network are others'; its own data are none yet."""
    team = Team(1)
    team.turns(range(4))
    raw_network, raw = team.network(0), torch.from_numpy(slot_of(5).observations[0])
    first = Saved.unpacked(team.normalisers[0].saved(), SPEC)
    assert first.scales.chosen
    added = Team(1)
    nn.utils.vector_to_parameters(raw_network, added.models[0].parameters())
    with torch.no_grad():
        logits, values = added.models[0](raw)
    (normaliser,) = added.normalisers
    normaliser.restore(replace(first, own=Own.none(SPEC)).packed())
    turn = 0
    while not normaliser.start_turn(turn):
        assert torch.equal(added.network(0), raw_network), "as long as nothing is scaled"
        normaliser.count(slot_of(turn), ALL)
        normaliser.end_turn()
        again = added.join(0)  # of a state that is saved in between
        again.restore(normaliser.saved())
        normaliser, turn = again, turn + 1
    assert turn > 1
    assert normaliser.scaling.observations is not None
    with torch.no_grad():
        found, scores = added.models[0](normaliser.scaling.observations(raw))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores * normaliser.scales.return_std, values, rtol=1e-4, atol=1e-5)


def test_other_scales_are_no_other_policy() -> None:
    """Raw parameters are the same before and after, though the statistics have moved."""
    team = Team(1)
    team.turns(range(3))
    raw, (normaliser,) = team.network(0), team.normalisers
    scales = normaliser.scales.packed()
    normaliser.start_turn(3)
    assert not np.array_equal(normaliser.scales.packed(), scales)
    normaliser.end_turn()
    torch.testing.assert_close(team.network(0), raw, rtol=1e-5, atol=1e-6)


def test_a_network_of_another_node_stays_the_same_function_in_the_scales_of_this_one() -> None:
    there, here = Team(1), Team(1)
    there.turns(range(6))
    published = there.network(0)
    here.turns(range(3))
    nn.utils.vector_to_parameters(published, here.models[0].parameters())
    normaliser, model = here.normalisers[0], here.models[0]
    normaliser.rejoin()
    seen = torch.from_numpy(slot_of(5).observations[0])
    logits, values = model(seen)
    assert normaliser.start_turn(3)
    scales = normaliser.scales
    scaled = torch.from_numpy(((seen.numpy() - scales.mean) / scales.std).astype("f4"))
    assert scaled.abs().max() < 5.0
    found = model(scaled)
    torch.testing.assert_close(found[0], logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1] * scales.return_std, values, rtol=1e-4, atol=1e-5)
    normaliser.end_turn()
    torch.testing.assert_close(here.network(0), published, rtol=1e-5, atol=1e-6)


def test_a_process_that_is_started_anew_counts_on() -> None:
    """Nothing twice, nothing lost but what was not published."""
    team = Team(2)
    team.turns(range(3))
    saved = team.normalisers[0].saved()
    team.turns(range(3, 5))  # published, and not saved
    team.normalisers[0].count(slot_of(999), ALL)  # neither
    team.control.set_incarnation(0, 1)
    team.normalisers[0] = team.join(0)
    team.normalisers[0].restore(saved)
    count = team.normalisers[0].own.count
    assert count == sum(slot_of(10 * turn).valid.sum() for turn in range(5))
    team.normalisers[0].rejoin()
    data = data_of(team, 5)
    assert np.allclose(team.normalisers[0].scales.mean, data.mean(0), rtol=1e-6)
    team.turns(range(5, 7))
    team.normalisers[1].start_turn(7)
    assert team.normalisers[1].gauges()["norm_count"] == len(data_of(team, 7))


def test_resumed_in_lock_step_is_as_never_interrupted() -> None:
    whole, halves = Team(2, synchronous=True), Team(2, synchronous=True)
    for team in (whole, halves):
        for normaliser in team.normalisers:
            normaliser.publish(0)
    whole.turns(range(6))
    halves.turns(range(3))
    saved = [normaliser.saved() for normaliser in halves.normalisers]
    networks = [halves.network(rank) for rank in halves.ranks]
    again = Team(2, synchronous=True)
    for rank in again.ranks:
        nn.utils.vector_to_parameters(networks[rank], again.models[rank].parameters())
        again.normalisers[rank].restore(saved[rank])
        again.normalisers[rank]._returns = halves.normalisers[rank]._returns  # the environments'
        again.normalisers[rank].publish(3)
    again.turns(range(3, 6))
    for rank in whole.ranks:
        assert torch.equal(again.network(rank), whole.network(rank))
        assert np.array_equal(again.normalisers[rank].saved(), whole.normalisers[rank].saved())


def test_in_lock_step_the_statistics_of_that_turn_are_awaited() -> None:
    """Of the incarnation that lives now, and of that turn: neither older nor newer ones do."""
    team = Team(2, synchronous=True)
    first, second = team.normalisers
    first.publish(0)
    second.publish(0)
    first.start_turn(0)
    first.count(slot_of(0), ALL)
    first.publish(1)
    stages: list[Callable[[], object]] = [
        lambda: None,
        lambda: second.publish(2),  # which nobody needs
        lambda: team.control.set_incarnation(1, 1),
        lambda: second.count(slot_of(1), ALL),
        lambda: second.publish(1),
    ]
    waits = []

    def idle() -> None:
        waits.append(len(stages))
        stages.pop(0)()

    waiting = team.join(0, idle)
    waiting._known.hear(0, first.own)
    waiting.start_turn(1)
    assert not stages
    assert waiting._known.of(1).count == second.own.count > 0


def test_in_lock_step_the_end_of_a_run_ends_the_wait() -> None:
    team = Team(2, synchronous=True)

    def over() -> None:
        raise StopRun

    with pytest.raises(StopRun):
        team.join(0, over).start_turn(0)


def test_in_lock_step_the_dead_are_not_awaited() -> None:
    team = Team(2, synchronous=True)
    team.control.set_alive(1, False)
    team.normalisers[0].start_turn(0)


def test_what_is_not_valid_is_not_counted() -> None:
    team = Team(1)
    (normaliser,) = team.normalisers
    slot = slot_of(1)
    slot.observations[:-1][~slot.valid] = np.nan
    slot.rewards[~slot.valid] = np.nan
    mask = np.zeros_like(ALL)
    mask[:, :3] = True
    normaliser.count(slot, mask)
    assert normaliser.own.observations.count == slot.valid[:, :3].sum()
    assert normaliser.own.returns.count == slot.valid[:, :3].sum()
    assert np.isfinite(normaliser.own.packed()).all()


def test_returns_are_discounted_and_begin_anew() -> None:
    """As in `VecNormalize`: the last reward of an episode counts to it, and to no other."""
    slot = slot_of(3)
    ended, returns = slot.terminated | slot.truncated, Returns(ENVS, 0.9)
    found = np.concatenate(
        [
            returns.of(slot.rewards[part], ended[part], slot.valid[part])
            for part in (slice(0, 60), slice(60, ROWS))
        ]
    )
    expected, totals = [], [0.0] * ENVS
    for step in range(ROWS):
        for env in range(ENVS):
            if slot.valid[step, env]:
                totals[env] = 0.9 * totals[env] + float(slot.rewards[step, env])
                expected.append(totals[env])
            if ended[step, env] or not slot.valid[step, env]:
                totals[env] = 0.0
    assert found.shape == (slot.valid.sum(), 1)
    assert np.allclose(found[:, 0], expected, rtol=1e-6)


def test_an_actor_learns_from_what_it_has_acted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row too; the simulators' memory stays as it is."""
    given: list[Tensor] = []
    act = A2C.act

    def noted(self: A2C, observations: Tensor, first: Tensor, place: Place | None) -> Acted:
        given.append(observations.clone())
        return act(self, observations, first, place)

    monkeypatch.setattr(A2C, "act", noted)
    filled = [rollout("mlp", seed) for seed in range(NUM_SLOTS)]
    slots = [
        RolloutSlot(*(getattr(one, name).numpy() for name in RolloutSlot._fields)) for one in filled
    ]
    raw = slots[1].observations.copy()
    mean, std = np.full(4, 0.25), np.full(4, 0.125)
    scaling = Scaling(NormaliserSpec(4, True), "cpu")
    scaling.set(Scales(True, mean, std, 0.25))
    actor = HostActor(slots, a2c("mlp", "cpu"), clip_rewards=False, scaling=scaling)
    for step in range(STEPS):
        actor.act(1, step, slice(0, FEW_ENVS))
    actor.observe(1, STEPS, slice(0, FEW_ENVS))
    learned = actor.rollout(1, np.ones((STEPS, FEW_ENVS), np.bool_))
    expected = torch.from_numpy((raw - 0.25) / 0.125)
    torch.testing.assert_close(learned.observations, expected.to(torch.float32))
    assert torch.equal(learned.observations[:-1], torch.stack(given))
    rewards = np.clip(slots[1].rewards / 0.25, -10.0, 10.0)
    assert np.abs(slots[1].rewards / 0.25).max() > 4.0
    assert np.array_equal(learned.rewards.numpy(), rewards)
    assert np.array_equal(slots[1].observations, raw)


def test_rewards_are_clipped_after_they_are_divided() -> None:
    scaling = Scaling(NormaliserSpec(0, True), "cpu")
    scaling.set(Scales(True, np.zeros(0), np.ones(0), 0.5))
    rewards = np.array([1.0, -2.0, 100.0, -100.0], np.float32)
    out = np.empty_like(rewards)
    scaling.rewards(rewards, out)
    assert out.tolist() == [2.0, -4.0, 10.0, -10.0]


def test_what_was_published_survives_its_writer() -> None:
    team = Team(1)
    (normaliser,) = team.normalisers
    normaliser.count(slot_of(1), ALL)
    normaliser.publish(5)
    slots = MomentSlots(team.arrays, 0)
    slots.begin_write()  # and killed
    found = slots.newest()
    assert found is not None
    assert np.array_equal(Own.unpacked(found, SPEC).packed(), normaliser.own.packed())
    assert slots.of_turn(5, 0) is not None
    assert slots.of_turn(5, 1) is None
