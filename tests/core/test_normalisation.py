"""Statistics of many learners' data: as of one stream, whatever is lost, repeated or late."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galamp.core.config import EnvironmentConfig
from galamp.core.moments import Moments
from galamp.core.normalisation import (
    WARM_UP,
    Known,
    NormaliserSpec,
    Own,
    Saved,
    Scales,
    normaliser_spec,
    scales_of_all,
)

SPEC = NormaliserSpec(inputs=3, rewards=True)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def drawn(seed: int, count: int, size: int = 3) -> np.ndarray:
    """Numbers of very different means and scales."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(count, size)) * [0.01, 3.0, 400.0][:size] + [5.0, 0.0, -900.0][:size]


def own_of(observations: np.ndarray, returns: np.ndarray) -> Own:
    return Own(Moments.of(observations), Moments.of(returns))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_shards_are_the_whole_stream(data: st.DataObject) -> None:
    """Any order, any repetition, any loss but that of the newest."""
    lengths = data.draw(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5), min_size=1))
    messages, streams = [], []
    for rank, rollouts in enumerate(lengths):
        parts = [drawn(100 * rank + at, length) for at, length in enumerate(rollouts)]
        own, sent = Own.none(SPEC), []
        for part in parts:
            own = own.merged(own_of(part, part[:, :1]))
            sent.append((rank, own))
        streams += parts
        kept = data.draw(st.lists(st.sampled_from(sent), max_size=8))
        messages += [*kept, sent[-1]]
    known = Known(SPEC)
    for rank, own in data.draw(st.permutations(messages)):
        known.hear(rank, own)
    everything, total = np.concatenate(streams), known.pooled()
    assert total.observations.count == total.returns.count == len(everything)
    if len(everything):
        found = total.observations
        assert np.allclose(found.mean, everything.mean(0), **CLOSE)
        assert np.allclose(found.variance, everything.var(0), **CLOSE)
        assert np.allclose(total.returns.variance, everything[:, :1].var(0), **CLOSE)


def test_two_are_merged_as_if_they_were_one() -> None:
    few, many = drawn(1, 7), drawn(2, 300) - 40.0
    whole = np.concatenate([few, many])
    for one, other in ((few, many), (many, few), (whole, whole[:0]), (whole[:0], whole)):
        found = Moments.of(one).merged(Moments.of(other))
        assert found.count == 307
        assert np.allclose(found.mean, whole.mean(0), rtol=1e-12)
        assert np.allclose(found.variance, whole.var(0), rtol=1e-12)


def test_older_moments_never_take_the_place_of_newer_ones() -> None:
    known = Known(SPEC)
    old = own_of(drawn(1, 5), drawn(1, 5, 1))
    new = old.merged(own_of(drawn(2, 5), drawn(2, 5, 1)))
    for each in (new, old, old):
        known.hear(0, each)
    assert known.of(0) is new
    assert known.pooled().count == 10


def test_the_order_of_ranks_decides_the_bits_and_nothing_else_does() -> None:
    moments = [own_of(drawn(seed, 50), drawn(seed, 50, 1)) for seed in range(4)]
    found = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        known = Known(SPEC)
        for rank in order:
            known.hear(rank, moments[rank])
        found.append(known.pooled().packed())
    assert np.array_equal(*found)


def test_scales_are_of_everything_and_not_of_the_ranks() -> None:
    """A mean of means would count the learner of few data as much as that of many."""
    few, many = drawn(1, 10), drawn(2, 5000) + 7.0
    saved = [Saved(own_of(x, x[:, :1]), Scales.raw(3)) for x in (few, many)]
    scales, whole = scales_of_all(saved, SPEC), np.concatenate([few, many])
    assert np.allclose(scales.mean, whole.mean(0), rtol=1e-6)
    assert scales.std[1:] == pytest.approx(whole.std(0)[1:], rel=1e-6)
    assert scales.return_std == pytest.approx(whole[:, 0].std(), rel=1e-4)


def test_scales_need_data() -> None:
    few = drawn(1, WARM_UP - 1)
    raw = Scales.of(own_of(few, few[:, :1]))
    assert not raw.chosen
    assert np.array_equal(raw.packed(), Scales.raw(3).packed())
    more = drawn(1, WARM_UP)
    assert Scales.of(own_of(more, more[:, :1])).chosen


def test_what_never_varies_is_divided_by_one() -> None:
    constant = np.tile([0.0, 5.0, -3.0], (WARM_UP, 1))
    scales = Scales.of(own_of(constant, constant[:, :1]))
    assert scales.std.tolist() == [1.0, 1.0, 1.0]
    assert scales.mean.tolist() == [0.0, 5.0, -3.0]
    assert scales.return_std == 1.0


def test_what_hardly_varies_is_divided_by_a_share_of_its_mean() -> None:
    values = np.random.default_rng(1).normal(1000.0, 0.01, (2 * WARM_UP, 3))
    scales = Scales.of(own_of(values, values[:, :1]))
    assert np.allclose(scales.std, 1.0, rtol=1e-3)


def test_float32_holds_scales_exactly() -> None:
    values = drawn(3, 2 * WARM_UP)
    scales = Scales.of(own_of(values, values[:, :1]))
    assert np.array_equal(scales.mean, scales.mean.astype(np.float32).astype(np.float64))
    assert np.array_equal(scales.std, scales.std.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("spec", [SPEC, NormaliserSpec(2, False), NormaliserSpec(0, True)])
def test_what_is_saved_comes_back_to_the_bit(spec: NormaliserSpec) -> None:
    observations, returns = drawn(1, 2000, 3)[:, : spec.inputs], drawn(2, 2000, 1)
    own = Own(Moments.of(observations), Moments.of(returns[:, : spec.returns]))
    saved = Saved(own, Scales.of(own))
    packed = saved.packed()
    assert packed.size == spec.saved_size
    assert own.packed().size == spec.own_size
    again = Saved.unpacked(packed, spec)
    assert np.array_equal(again.packed(), packed)
    assert again.scales.chosen
    assert again.own.count == 2000


def spoiled(at: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def spoil(packed: np.ndarray) -> np.ndarray:
        changed = packed.copy()
        changed[at] = value
        return changed

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        spoiled(0, -1.0),
        spoiled(1, np.nan),
        spoiled(4, -1e-3),
        spoiled(SPEC.own_size - 1, -1.0),
        spoiled(SPEC.own_size + 1, 0.0),
        spoiled(-1, 0.0),
        spoiled(-1, np.inf),
        lambda packed: packed[:-1],
        lambda packed: packed[:0],
    ],
)
def test_what_no_learner_saves_is_refused(spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    values = drawn(1, 2000)
    own = own_of(values, values[:, :1])
    packed = Saved(own, Scales.of(own)).packed()
    with pytest.raises(ValueError, match="numbers"):
        Saved.unpacked(spoil(packed), SPEC)


def test_nothing_is_normalised_unless_asked_for() -> None:
    assert normaliser_spec(EnvironmentConfig(), (4,)) is None
    asked = normaliser_spec(EnvironmentConfig(norm_obs=True), (4,), 0.9)
    assert asked == NormaliserSpec(4, False, 0.9)
    asked = normaliser_spec(EnvironmentConfig(norm_reward=True), (4, 84, 84))
    assert asked == NormaliserSpec(0, True)
