"""Flat parameters: all parameters of a network as one vector, and its gradients as another.

Used in learners, and wherever a network is loaded. The optimiser and gossip work on the flat
vectors. The network's own tensors are views of them, so nothing needs to be packed or unpacked:

    module.conv1.weight   module.conv1.bias   ...          (views)
    [------ OHWI -------][------ O --------][ ... ]  data  [P]
    [------ OHWI -------][------ O --------][ ... ]  grad  [P]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from galamp.core.errors import CheckpointError


class Span(NamedTuple):
    """Place of one parameter in the flat vector; `shape` is its shape in the module."""

    name: str
    shape: tuple[int, ...]
    offset: int


class FlatParameters:
    """Parameters of `module`, moved to `device` into one float32 vector [P].

    Weights with four dimensions are stored in OHWI order; the module sees them as OIHW with
    channels-last strides, so a channels-last forward pass copies no weights. Autograd does not
    notice writes to `data`: do not write between a forward pass and its backward pass.

    Attributes:
        data: [P] float32; every parameter of the module is a view of it.
        grad: [P] float32; every parameter's `.grad` is a view of it, and backward adds to it.
    """

    def __init__(self, module: nn.Module, device: torch.device | str) -> None:
        """Replace the parameters of `module` by views of the flat vector, with the same values."""
        assert not list(module.buffers()), "buffers would not be published and mixed"
        parameters = dict(module.named_parameters())
        for name, parameter in parameters.items():
            assert parameter.dtype is torch.float32, name
            assert parameter.requires_grad, name
        self._spans: list[Span] = []
        end = 0
        for name, parameter in parameters.items():
            self._spans.append(Span(name, tuple(parameter.shape), end))
            end += parameter.numel()
        self.data = torch.empty(end, dtype=torch.float32, device=device)
        self.grad = torch.zeros_like(self.data)
        for span in self._spans:
            self._adopt(parameters[span.name], span)

    def _adopt(self, parameter: nn.Parameter, span: Span) -> None:
        view = _view(self.data, span)
        view.copy_(parameter.detach())
        parameter.data = view
        parameter.grad = _view(self.grad, span)

    def layout(self) -> list[Span]:
        """Return (name, shape, offset) of every parameter, in the order of the flat vector."""
        return list(self._spans)

    def zero_grad(self) -> None:
        """Set every gradient to zero; the views stay."""
        self.grad.zero_()

    def named(self) -> dict[str, Tensor]:
        """Return contiguous copies of the parameters on the CPU, in the module's own shapes."""
        return {
            span.name: _view(self.data, span).to("cpu", copy=True).contiguous()
            for span in self._spans
        }

    def load_named(self, values: Mapping[str, Tensor]) -> None:
        """Copy `values` (as `named` returns them) into the flat vector, all of them or none.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs.
        """
        differences = self._differences(values)
        if differences:
            raise CheckpointError(
                f"parameters do not fit this network: {'; '.join(differences)}; "
                "load a checkpoint of the same network and game"
            )
        for span in self._spans:
            _view(self.data, span).copy_(values[span.name])

    def _differences(self, values: Mapping[str, Tensor]) -> list[str]:
        shapes = {span.name: span.shape for span in self._spans}
        missing = [f"{name} is missing" for name in shapes if name not in values]
        unknown = [f"{name} is unknown" for name in values if name not in shapes]
        wrong = [
            f"{name}: expected float32 {list(shapes[name])}, "
            f"got {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
            for name, value in values.items()
            if name in shapes
            and (tuple(value.shape) != shapes[name] or value.dtype is not torch.float32)
        ]
        return missing + unknown + wrong


def _view(flat: Tensor, span: Span) -> Tensor:
    """Return the part `span` of `flat` [P], in the shape of the module."""
    size = 1
    for length in span.shape:
        size *= length
    part = flat[span.offset : span.offset + size]
    if len(span.shape) != 4:
        return part.view(span.shape)
    outputs, inputs, height, width = span.shape
    return part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
