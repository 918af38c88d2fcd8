"""The quick matrix products against PyTorch's plain ones."""

from __future__ import annotations

import pytest
import torch

from galamp.algorithms import matmul
from galamp.algorithms.matmul import product, rectified_linear

SIZES = [(1, 1, 1), (16, 512, 5), (5, 80, 512), (80, 512, 3136), (512, 80, 3136)]


@pytest.fixture(params=[True, False], ids=["onednn", "plain"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not matmul.ONEDNN:
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setattr(matmul, "ONEDNN", request.param)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("rows", "inner", "columns"), SIZES)
@pytest.mark.parametrize("left_transposed", [False, True])
@pytest.mark.parametrize("right_transposed", [False, True])
def test_a_product_is_that_of_float64(
    rows: int, inner: int, columns: int, left_transposed: bool, right_transposed: bool
) -> None:
    left = random(inner, rows).t() if left_transposed else random(rows, inner)
    right = random(columns, inner).t() if right_transposed else random(inner, columns)
    exact = left.double() @ right.double()
    torch.testing.assert_close(product(left, right).double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_a_linear_layer_is_rectified_into_its_place(dtype: torch.dtype, tolerance: float) -> None:
    x, weight, bias = random(16, 64).to(dtype), random(32, 64).to(dtype), random(32).to(dtype)
    room = torch.full((3, 16, 32), -1.0, dtype=dtype)
    rectified_linear(x, weight, bias, room[1])
    exact = (x.double() @ weight.double().t() + bias.double()).clamp(min=0.0)
    torch.testing.assert_close(room[1].double(), exact, rtol=tolerance, atol=tolerance * 4)
    assert bool((room[[0, 2]] == -1.0).all())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("broken", ["x", "weight", "bias"])
def test_what_is_no_number_is_not_rectified_away(broken: str) -> None:
    tensors = {"x": random(16, 64), "weight": random(32, 64), "bias": random(32)}
    tensors[broken].fill_(torch.nan)
    room = torch.zeros(16, 32)
    rectified_linear(**tensors, to=room)
    assert bool(room.isnan().all())
