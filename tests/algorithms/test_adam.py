"""Adam and RAdam on flat vectors against PyTorch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from galamp.algorithms.adam import FlatAdam
from galamp.algorithms.flat_parameters import FlatParameters

ACTIVE, INACTIVE = torch.tensor(True), torch.tensor(False)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_steps_are_those_of_pytorch(rectified: bool, max_norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mine, other = nn.Linear(5, 3), nn.Linear(5, 3)
    other.load_state_dict(mine.state_dict())
    flat = FlatParameters(mine, "cpu")
    optimiser = FlatAdam(flat, eps=1e-5, rectified=rectified)
    kind = torch.optim.RAdam if rectified else torch.optim.Adam
    expected = kind(other.parameters(), lr=1e-2, eps=1e-5)
    for _ in range(30):
        inputs = torch.randn(7, 5, generator=generator)
        flat.zero_grad()
        expected.zero_grad()
        mine(inputs).square().sum().backward()
        other(inputs).square().sum().backward()
        norm = optimiser.step(ACTIVE, max_norm, 1e-2)
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(other.parameters(), max_norm))
        expected.step()
        torch.testing.assert_close(mine.weight, other.weight, rtol=1e-4, atol=1e-6)
    assert optimiser.steps.tolist() == [30.0]


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("gradient", [1.0, 1e30, math.inf, math.nan])
@pytest.mark.parametrize("steps_before", [0, 9])
def test_an_inactive_step_changes_nothing(
    rectified: bool, gradient: float, steps_before: int
) -> None:
    flat = FlatParameters(nn.Linear(3, 2), "cpu")
    optimiser = FlatAdam(flat, eps=1e-8, rectified=rectified)
    for _ in range(steps_before):
        flat.grad.fill_(0.3)
        optimiser.step(ACTIVE, 1.0, 1e-2)
    before = [t.clone() for t in (flat.data, *optimiser.state().values())]
    flat.grad.fill_(gradient)
    optimiser.step(INACTIVE, 1.0, 1e-2)
    after = [flat.data, *optimiser.state().values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_averaged_moments_are_corrected_by_the_mean_number_of_steps() -> None:
    """Of a constant gradient, after 16 and 32 steps; the greater number would be 25 % off."""
    states = []
    for steps in (16, 32):
        flat = FlatParameters(nn.Linear(3, 2), "cpu")
        optimiser = FlatAdam(flat, eps=1e-8)
        for _ in range(steps):
            flat.grad.fill_(0.3)
            optimiser.step(ACTIVE, 1e6, 1e-2)
        states.append(optimiser.state())
    mean = {name: (states[0][name] + states[1][name]) / 2 for name in states[0]}
    corrected = mean["second_moment"] / (1.0 - 0.999 ** mean["steps"])
    torch.testing.assert_close(corrected, torch.full_like(corrected, 0.09), rtol=2e-3, atol=0.0)
    greater = mean["second_moment"] / (1.0 - 0.999 ** states[1]["steps"])
    assert (greater < 0.07).all()
