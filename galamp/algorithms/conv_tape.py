"""The convolutional network's way back, written by hand on the activations that acting left.

For CPUs. The same layers as `ConvActorCritic.forward`, each result put where the way back needs it:

    images --conv1--> first --conv2--> second --conv3--> third --hidden--> hidden --heads--> outputs

all [T+1, B, ...] in channels-last order. The backward pass takes the whole rollout as one batch
and writes every gradient once, straight into the flat vector, which need not be zeroed before.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galamp.algorithms.tape import Outputs, Place, Tape
from galamp.models import ConvActorCritic


class Layers(NamedTuple):
    """What every layer gave, after its rectifier; images and convolutions as [..., H, W, C]."""

    images: Tensor
    first: Tensor
    second: Tensor
    third: Tensor
    hidden: Tensor
    outputs: Tensor

    def at(self, step: int, lanes: slice) -> Layers:
        """Return the part of some lanes at one step, as views [b, ...]."""
        return Layers(*(layer[step, lanes] for layer in self))

    def before(self, steps: int) -> Layers:
        """Return the part of the first steps, as views [steps * B, ...]."""
        return Layers(*(layer[:steps].flatten(0, 1) for layer in self))


class ConvTape(Tape):
    """Keeps the activations of one rollout of bytes, [T+1, B]; the last row is what follows it."""

    def __init__(self, model: ConvActorCritic, steps: int, lanes: int) -> None:
        """Make room for rollouts of `steps` x `lanes`."""
        assert model.scale != 1.0, "lost floats may be NaN, which no mask stops; bytes are never"
        self._model, self._steps, self._lanes = model, steps, lanes
        self._layers = _room(model, steps + 1, lanes)
        self._kept = torch.zeros(steps, lanes, dtype=torch.bool)
        self._leaf = self._layers.outputs[:steps]

    def act(self, observations: Tensor, place: Place | None) -> Tensor:
        """Return the logits and keep everything; see `Tape.act`."""
        if place is None:
            return self._pass(observations, _room(self._model, 1, len(observations)).before(1))[0]
        logits, _ = self._pass(observations, self._layers.at(*place))
        self._kept[place] = True
        return logits

    def values(self, observations: Tensor) -> Tensor:
        """Return the values; see `Tape.values`."""
        return self._pass(observations, self._layers.at(self._steps, slice(None)))[1]

    def outputs(self, observations: Tensor) -> Outputs:
        """Return what was kept, after computing what was not; see `Tape.outputs`."""
        for step in (~self._kept.all(1)).nonzero().flatten().tolist():
            self._pass(observations[step], self._layers.at(step, slice(None)))
        self._kept.fill_(True)
        self._leaf = self._layers.outputs[: self._steps].detach().requires_grad_()
        return Outputs(self._leaf[..., :-1], self._leaf[..., -1])

    def backward(self, loss: Tensor) -> None:
        """Go back through every layer; see `Tape.backward`."""
        (gradient,) = torch.autograd.grad(loss, (self._leaf,))
        with torch.inference_mode():
            self._back(gradient.flatten(0, 1), self._layers.before(self._steps))

    def forget(self) -> None:
        """Keep nothing; see `Tape.forget`."""
        self._kept.fill_(False)

    def _pass(self, observations: Tensor, to: Layers) -> tuple[Tensor, Tensor]:
        """Compute logits [b, A] and values [b] of bytes [b, ...], every layer into its place."""
        model = self._model
        with torch.inference_mode():
            model.channels_last_into(observations, to.images)
            x = _convolve(to.images, model.conv1, model.scaled_weight(), to.first)
            x = _convolve(x, model.conv2, model.conv2.weight, to.second)
            x = _convolve(x, model.conv3, model.conv3.weight, to.third)
            weight, bias = model.hidden.weight, model.hidden.bias
            torch.addmm(bias, x.flatten(1), weight.t(), out=to.hidden).relu_()
            torch.addmm(model.heads.bias, to.hidden, model.heads.weight.t(), out=to.outputs)
            return to.outputs[:, :-1], to.outputs[:, -1]

    def _back(self, gradient: Tensor, layers: Layers) -> None:
        """Fill all gradients from that of the outputs, [N, A + 1]."""
        model = self._model
        gradient = _back_linear(gradient, layers.hidden, model.heads)
        gradient = _rectified(gradient, layers.hidden)
        gradient = _back_linear(gradient, layers.third.flatten(1), model.hidden)
        gradient = _rectified(gradient.view_as(layers.third), layers.third)
        gradient = _back_convolution(gradient, layers.second, model.conv3, model.conv3.weight)
        gradient = _rectified(gradient, layers.second)
        gradient = _back_convolution(gradient, layers.first, model.conv2, model.conv2.weight)
        gradient = _rectified(gradient, layers.first)
        weight = model.scaled_weight()
        _back_convolution(gradient, layers.images, model.conv1, weight, to_input=False)
        _grad(model.conv1.weight).mul_(model.scale)


def _room(model: ConvActorCritic, steps: int, lanes: int) -> Layers:
    """Allocate every layer's results, [steps, lanes, ...] float32."""
    height, width = model.image_size
    sizes = [(height, width, model.conv1.in_channels)]
    for layer in (model.conv1, model.conv2, model.conv3):
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        height, width = ((side - kernel) // stride + 1 for side in (height, width))
        sizes.append((height, width, layer.out_channels))
    vectors = [(model.hidden.out_features,), (model.heads.out_features,)]
    return Layers(*(torch.zeros(steps, lanes, *size) for size in (*sizes, *vectors)))


def _convolve(x: Tensor, layer: nn.Conv2d, weight: Tensor, to: Tensor) -> Tensor:
    """Convolve [b, H, W, C] and rectify into `to`, which is returned."""
    result = F.conv2d(_channels_first(x), weight, layer.bias, layer.stride)
    torch.clamp_min(result, 0.0, out=_channels_first(to))
    return to


def _rectified(gradient: Tensor, result: Tensor) -> Tensor:
    """Return the gradient before a rectifier that gave `result`."""
    back: Tensor = torch.ops.aten.threshold_backward(gradient, result, 0.0)
    return back


def _back_linear(gradient: Tensor, x: Tensor, layer: nn.Linear) -> Tensor:
    """Fill the layer's gradients; return that of its input `x` [N, I]."""
    torch.mm(gradient.t(), x, out=_grad(layer.weight))
    torch.sum(gradient, 0, out=_grad(layer.bias))
    return gradient @ layer.weight


def _back_convolution(
    gradient: Tensor, x: Tensor, layer: nn.Conv2d, weight: Tensor, *, to_input: bool = True
) -> Tensor:
    """Fill the layer's gradients; return that of its input `x` [N, H, W, C] where wanted."""
    outputs, padding, dilation = layer.out_channels, [0, 0], [1, 1]
    to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
        *(_channels_first(gradient), _channels_first(x), weight, [outputs], layer.stride, padding),
        *(dilation, False, [0, 0], 1, [to_input, True, True]),
    )
    _grad(layer.weight).copy_(to_weight)
    _grad(layer.bias).copy_(to_bias)
    return to_x.permute(0, 2, 3, 1) if to_input else gradient


def _channels_first(x: Tensor) -> Tensor:
    """Return [N, H, W, C] as PyTorch wants to see it, [N, C, H, W], in the same memory."""
    return x.permute(0, 3, 1, 2)


def _grad(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    assert parameter.grad is not None
    return parameter.grad
