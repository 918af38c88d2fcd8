"""Networks of users, by name: `--network tests.support.networks:NAME`; one is good, others not."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn


class Toy(nn.Module):
    """One hidden layer of 32 units, shared by policy and value."""

    def __init__(self, shape: tuple[int, ...], dtype: str, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.LazyLinear(32), nn.Tanh())
        self.body(torch.zeros(1, *shape))  # the layer learns its size
        self.policy, self.value = nn.Linear(32, actions), nn.Linear(32, 1)
        self.scale = 1 / 255 if dtype == "uint8" else 1.0

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(observations.to(torch.float32) * self.scale)
        return self.policy(features), self.value(features).squeeze(-1)


class Scaled(Toy):
    """Is told the scale of observations."""

    def __init__(
        self, shape: tuple[int, ...], dtype: str, actions: int, observation_scale: float
    ) -> None:
        super().__init__(shape, dtype, actions)
        self.scale = observation_scale


class Telling(nn.Module):
    """One for vectors, that tells what depends on statistics."""

    def __init__(self, shape: tuple[int, ...], dtype: str, actions: int) -> None:
        super().__init__()
        assert dtype == "float32"
        self.body = nn.Sequential(nn.Linear(shape[0], 32), nn.Tanh())
        self.policy, self.value = nn.Linear(32, actions), nn.Linear(32, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(observations)
        return self.policy(features), self.value(features).squeeze(-1)

    def input_layers(self) -> tuple[nn.Module, ...]:
        return (self.body[0],)

    def output_rows(self) -> tuple[tuple[nn.Linear, slice], ...]:
        return (self.policy, slice(None)), (self.value, slice(None))


def drawing(shape: tuple[int, ...], dtype: str, actions: int) -> nn.Module:
    """A good one whose weights are drawn by numpy."""
    model = Toy(shape, dtype, actions)
    weight = model.value.weight
    weight.data = torch.from_numpy(np.random.normal(size=weight.shape).astype(np.float32))
    return model


def unseeded(shape: tuple[int, ...], dtype: str, actions: int) -> nn.Module:
    """Other weights in every process."""
    model = Toy(shape, dtype, actions)
    model.value.bias.data = torch.from_numpy(np.frombuffer(os.urandom(4), "<u2")[:1] / 2.0).float()
    return model


@functools.cache
def the_same(shape: tuple[int, ...], dtype: str, actions: int) -> nn.Module:
    """The same module from every call."""
    return Toy(shape, dtype, actions)


class Bent(Toy):
    """Returns what `bend` makes of logits and values."""

    bend: Callable[[Tensor, Tensor], Any]

    def forward(self, observations: Tensor) -> Any:
        return type(self).bend(*super().forward(observations))


def bent(bend: Callable[[Tensor, Tensor], Any]) -> type[Bent]:
    return type("Bent", (Bent,), {"bend": staticmethod(bend)})


wide = bent(lambda logits, values: (torch.cat((logits, logits), 1), values))
column = bent(lambda logits, values: (logits, values.unsqueeze(1)))
squeezed = bent(lambda logits, values: (logits, values.squeeze()))
alone = bent(lambda logits, values: logits)
nothing = bent(lambda logits, values: None)
double = bent(lambda logits, values: (logits.double(), values))
nan = bent(lambda logits, values: (logits, values * float("nan")))
detached = bent(lambda logits, values: (logits, values.detach()))
dropped = bent(lambda logits, values: (nn.functional.dropout(logits + 1.0), values))


class WithBuffer(Toy):
    def __init__(self, *task: Any) -> None:
        super().__init__(*task)
        self.norm = nn.BatchNorm1d(32)


class Frozen(Toy):
    def __init__(self, *task: Any) -> None:
        super().__init__(*task)
        self.value.bias.requires_grad_(False)


class Half(Toy):
    def __init__(self, *task: Any) -> None:
        super().__init__(*task)
        self.short = nn.Parameter(torch.zeros(2, dtype=torch.float16))


class Lazy(Toy):
    def __init__(self, *task: Any) -> None:
        super().__init__(*task)
        self.lazy = nn.LazyLinear(2)


class Named(Toy):
    def __init__(self, *task: Any) -> None:
        super().__init__(*task)
        self.add_module("a/b", nn.Linear(2, 2))


def empty(*task: Any) -> nn.Module:
    return nn.Flatten()


def raising(*task: Any) -> NoReturn:
    raise ValueError("no idea\nat all")


def leaving(*task: Any) -> NoReturn:
    sys.exit("enough")


def table(*task: Any) -> dict[str, int]:
    return {}


def without_arguments() -> nn.Module:
    return nn.Flatten()


class FailingForward(Toy):
    def forward(self, observations: Tensor) -> NoReturn:
        raise RuntimeError("mat1 and mat2")


a_number = 3
