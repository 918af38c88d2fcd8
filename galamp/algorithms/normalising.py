"""Networks under normalisers: what they see, and the same function in other scales.

    observations [B, N] --InputNormaliser--> (x - mean) / std, clipped --> network
    parameters in some scales --to_raw--> the same function of raw observations, values in score
    the same --from_raw--> parameters in other scales

Runs in learners and in evaluation. Raw scales are the only ones that all learners share: networks
are published, mixed and saved in them. Whatever the scales of two learners, their raw parameters
take the same inputs and give values in the same unit, so that they can be averaged (for value
heads: van Hasselt et al. 2016, PopArt). Sums are in float64. Outputs stay the same within the clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.networks.base import Rows
from galamp.core import user_code
from galamp.core.errors import UserError
from galamp.core.normalisation import OBSERVATION_CLIP, NormaliserSpec, Scales


class InputNormaliser:
    """Normalises observations, by numbers that stay in the same memory."""

    def __init__(self, inputs: int, device: torch.device | str) -> None:
        """Leave observations [..., N] as they are, until `set`."""
        self._mean = torch.zeros(inputs, device=device)
        self._std = torch.ones(inputs, device=device)
        self._active = False

    def set(self, scales: Scales) -> None:
        """Normalise by these scales from now on; raw, there is no clip either."""
        self._mean.copy_(torch.from_numpy(scales.mean))
        self._std.copy_(torch.from_numpy(scales.std))
        self._active = scales.chosen

    def into(self, observations: Tensor, out: Tensor) -> Tensor:
        """Write normalised `observations` [..., N], of any type, to `out`, float32; return it."""
        out.copy_(observations, non_blocking=True)
        if self._active:
            out.sub_(self._mean).div_(self._std).clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        return out

    def __call__(self, observations: Tensor) -> Tensor:
        """Return normalised observations, float32."""
        shape, device = observations.shape, self._mean.device
        return self.into(observations, torch.empty(shape, dtype=torch.float32, device=device))


def rescaled(observations: Tensor, before: Scales, after: Scales) -> Tensor:
    """Return observations [..., N] that are in the scales `before` in those `after`."""
    device = observations.device
    mean, std, new_mean, new_std = (
        torch.from_numpy(numbers).to(device)
        for numbers in (before.mean, before.std, after.mean, after.std)
    )
    return ((observations.double() * std + mean - new_mean) / new_std).to(observations.dtype)


class Layers(NamedTuple):
    """What of a network depends on the scales.

    Attributes:
        inputs: layers that take the observation itself; none if it is not normalised.
        values: what gives values, or action values; None if rewards are not normalised.
    """

    inputs: tuple[nn.Linear, ...]
    values: Rows | None


def layers_of(
    model: nn.Module, network: str, spec: NormaliserSpec, *, action_values: bool = False
) -> Layers:
    """Return what of `model` depends on the scales.

    Args:
        model: the network.
        network: its name, for messages.
        spec: what is normalised.
        action_values: see `Algorithm.learns_action_values`.

    Raises:
        UserError: the network does not tell, or tells what cannot be.
    """
    inputs: tuple[nn.Linear, ...] = ()
    if spec.inputs:
        inputs = tuple(_told(model, "input_layers", network, "--norm-obs"))
        if not inputs or not all(_takes(layer, spec.inputs) for layer in inputs):
            raise UserError(
                f"--norm-obs: network {network} does not tell its first layers: expected "
                f"input_layers() to return every nn.Linear, with a bias, of {spec.inputs} inputs"
            )
    rows = None
    if spec.rewards:
        policy, value = _told(model, "output_rows", network, "--norm-reward")
        rows = Rows(*(policy if action_values else value))
    return Layers(inputs, rows)


def to_raw(layers: Layers, scales: Scales) -> None:
    """Change parameters from `scales` to raw observations and scores."""
    mean, std = torch.from_numpy(scales.mean), torch.from_numpy(scales.std)
    with torch.no_grad():
        for layer in layers.inputs:
            _express(layer, mean, std, to_raw=True)
        if layers.values is not None:
            _scale(layers.values, scales.return_std)


def from_raw(layers: Layers, scales: Scales, before: Scales) -> None:
    """Change parameters from raw observations and scores to `scales`.

    Two bounds keep what the function was not trained on from being blown up: where the std of an
    observation's number has grown by more than the clip since the scales `before`, what lay beyond
    the clip counts as at it; and values learned before returns varied are not enlarged.
    """
    mean = torch.from_numpy(scales.mean)
    bound = OBSERVATION_CLIP * before.std if before.chosen else scales.std
    std = torch.minimum(torch.from_numpy(scales.std), torch.from_numpy(bound))
    with torch.no_grad():
        for layer in layers.inputs:
            _express(layer, mean, std, to_raw=False)
        if layers.values is not None:
            factor = 1.0 / scales.return_std
            _scale(layers.values, min(factor, 1.0) if before.return_std == 1.0 else factor)


def _express(layer: nn.Linear, mean: Tensor, std: Tensor, *, to_raw: bool) -> None:
    """Change W and b between W z + b of z = (x - mean) / std, and W x + b."""
    device = layer.weight.device
    mean, std = mean.to(device), std.to(device)
    if to_raw:
        layer.weight.copy_(layer.weight.double() / std)
    # By the raw weights as they are rounded in both directions, or else the bias would creep.
    shift = layer.weight.double() @ mean
    layer.bias.copy_(layer.bias.double() + (-shift if to_raw else shift))
    if not to_raw:
        layer.weight.copy_(layer.weight.double() * std)


def _scale(rows: Rows, factor: float) -> None:
    """Multiply some outputs of a layer."""
    for parameter in (rows.layer.weight, rows.layer.bias):
        if parameter is not None:
            part = parameter[rows.rows]
            part.copy_(part.double() * factor)


def _takes(layer: object, inputs: int) -> bool:
    fits = isinstance(layer, nn.Linear) and layer.in_features == inputs
    return fits and getattr(layer, "bias", None) is not None


def _told(model: nn.Module, method: str, network: str, flag: str) -> Any:
    """Return what a network declares of itself."""
    declare: Callable[[], Any] | None = getattr(model, method, None)
    if declare is None:
        raise UserError(
            f"{flag}: network {network} has no method {method}(), which tells what depends on it; "
            "add it, see galamp.algorithms.networks.base.ActorCritic, or leave the flag out"
        )
    with user_code.mistakes_told(f"--network {network}", torch):
        return declare()
