"""Cached forward pass of the convolutional network, for CPUs, with a backward pass by hand.

Acting computes the same layers as `ConvActorCritic.forward`, and caches every activation for the
backward pass:

    images --conv1--> first --conv2--> second --conv3--> third --hidden--> hidden --heads--> outputs

All are [T+1, B, ...] in channels-last order; in bfloat16 if configured, except the heads, whose
outputs and parameters are float32. The backward pass takes the whole rollout as one batch and
writes every gradient once, directly into the flat vector, which need not be set to zero before.

It is written by hand for speed alone: plain autograd (`RecomputedForward`) gives the same gradients
and computes every forward pass twice. On one core of a Xeon, in float32, that takes
1.27 times as long (1.01 - 1.67), by `bin/bench forward`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galamp.algorithms.forward import ForwardPass, Outputs, Place, RolloutOutputs
from galamp.algorithms.matmul import product, rectified_linear
from galamp.algorithms.networks.convolutional import ConvActorCritic


class Layers(NamedTuple):
    """Activations of every layer, after its ReLU; images and convolutions as [..., H, W, C]."""

    images: Tensor
    first: Tensor
    second: Tensor
    third: Tensor
    hidden: Tensor
    outputs: Tensor

    def at(self, step: int, envs: slice) -> Pass:
        """Return views [b, ...] for the activations of `envs` at one step."""
        return Pass.into(Layers(*(layer[step, envs] for layer in self)))

    def before(self, steps: int) -> Layers:
        """Return views [steps * B, ...] of the first `steps` steps."""
        return Layers(*(layer[:steps].flatten(0, 1) for layer in self))


class Pass(NamedTuple):
    """Output views [b, ...] of one forward pass, in the layouts that PyTorch's operators expect.

    To create them takes longer than a small layer, so they are created once for every place.
    """

    images: Tensor
    pixels: Tensor
    first: Tensor
    second: Tensor
    third: Tensor
    features: Tensor
    hidden: Tensor
    outputs: Tensor
    logits: Tensor
    values: Tensor

    @staticmethod
    def into(layers: Layers) -> Pass:
        """Return the views of the layers at one step."""
        outputs = layers.outputs
        return Pass(
            images=layers.images,
            pixels=_channels_first(layers.images),
            first=_channels_first(layers.first),
            second=_channels_first(layers.second),
            third=_channels_first(layers.third),
            features=layers.third.flatten(1),
            hidden=layers.hidden,
            outputs=outputs,
            logits=outputs[:, :-1],
            values=outputs[:, -1],
        )


class Pair(NamedTuple):
    """A layer's weight and bias."""

    weight: Tensor
    bias: Tensor


class LayerWeights(NamedTuple):
    """Weight and bias of the four layers below the heads, in the type of the computation."""

    conv1: Pair
    conv2: Pair
    conv3: Pair
    hidden: Pair


class CachedConvForward(ForwardPass):
    """Caches the activations of one uint8 rollout, [T+1, B]; the last row is for the bootstrap."""

    def __init__(
        self, model: ConvActorCritic, steps: int, envs: int, dtype: torch.dtype = torch.float32
    ) -> None:
        """Allocate the cache for rollouts [steps, envs], computed in `dtype`."""
        assert model.takes_bytes, "invalid floats may be NaN, which no mask stops; bytes cannot be"
        self._model, self._steps, self._dtype = model, steps, dtype
        self._layers = _room(model, steps + 1, envs, dtype)
        self._kept = torch.zeros(steps, envs, dtype=torch.bool)
        self._leaf = self._layers.outputs[:steps]
        self._weights: LayerWeights | None = None
        self._passes: dict[tuple[int, int, int], Pass] = {}

    def act(self, observations: Tensor, first: Tensor, place: Place | None) -> Tensor:
        """Return the logits and cache all activations; see `ForwardPass.act`."""
        if place is None:
            room = _room(self._model, 1, len(observations), self._dtype)
            return self._pass(observations, room.at(0, slice(None))).logits
        step, envs = place
        assert isinstance(step, int), "a cache on a CPU"
        self._kept[step, envs] = True
        return self._pass(observations, self._at(step, envs)).logits

    def rollout(self, observations: Tensor, first: Tensor) -> RolloutOutputs:
        """Return the cached outputs, after computing missing ones; see `ForwardPass.rollout`."""
        bootstrap = self._pass(observations[-1], self._at(self._steps, slice(None))).values
        self._complete(observations[:-1])
        self._leaf = self._layers.outputs[: self._steps].detach().requires_grad_()
        return RolloutOutputs(self._leaf[..., :-1], self._leaf[..., -1], bootstrap)

    def evaluate(self, observations: Tensor, first: Tensor) -> Outputs:
        """Return the cached outputs, after computing missing ones; see `ForwardPass.evaluate`."""
        self._pass(observations[-1], self._at(self._steps, slice(None)))
        self._complete(observations[:-1])
        outputs = self._layers.outputs.detach()
        return Outputs(outputs[..., :-1], outputs[..., -1])

    def outputs(self, observations: Tensor, first: Tensor, envs: Tensor) -> Outputs:
        """Refuse: the cache is of a whole rollout, and minibatches gain nothing by it."""
        raise NotImplementedError("minibatches are computed by RecomputedForward")

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass through every layer; see `ForwardPass.backward`."""
        (gradient,) = torch.autograd.grad(loss, (self._leaf,))
        with torch.inference_mode():
            self._back(gradient.flatten(0, 1), self._layers.before(self._steps), self._present())

    def discard(self) -> None:
        """Discard the cache; see `ForwardPass.discard`."""
        self._kept.fill_(False)
        self._weights = None

    def _complete(self, observations: Tensor) -> None:
        """Compute what acting has not: rows of observations [T, B, ...] with a gap."""
        assert observations.shape[:2] == self._kept.shape, "not the shape that was prepared for"
        for step in (~self._kept.all(1)).nonzero().flatten().tolist():
            self._pass(observations[step], self._at(step, slice(None)))
        self._kept.fill_(True)

    def _present(self) -> LayerWeights:
        """Return the weights in the type of the computation; converted again after every update."""
        if self._weights is None:
            model, dtype = self._model, self._dtype
            layers = (model.conv1, model.conv2, model.conv3, model.hidden)
            weights = (model.scaled_weight(), *(layer.weight for layer in layers[1:]))
            pairs = zip(weights, (layer.bias for layer in layers), strict=True)
            self._weights = LayerWeights(
                *(Pair(w.to(dtype), _known(b).to(dtype)) for w, b in pairs)
            )
        return self._weights

    def _at(self, step: int, envs: slice) -> Pass:
        """Return the views for the results of `envs` at `step`."""
        low, high, _ = envs.indices(self._kept.shape[1])
        if (step, low, high) not in self._passes:
            self._passes[step, low, high] = self._layers.at(step, envs)
        return self._passes[step, low, high]

    def _pass(self, observations: Tensor, to: Pass) -> Pass:
        """Compute the network on uint8 observations [b, ...] into the views `to`; return `to`."""
        model = self._model
        with torch.inference_mode():
            with_ = self._present()
            model.channels_last_into(observations, to.images)
            _convolve(to.pixels, with_.conv1, model.conv1.stride, to.first)
            _convolve(to.first, with_.conv2, model.conv2.stride, to.second)
            _convolve(to.second, with_.conv3, model.conv3.stride, to.third)
            rectified_linear(to.features, *with_.hidden, to.hidden)
            heads, hidden = model.heads, to.hidden.to(torch.float32)
            torch.addmm(heads.bias, hidden, heads.weight.t(), out=to.outputs)
            return to

    def _back(self, gradient: Tensor, layers: Layers, weights: LayerWeights) -> None:
        """Compute all gradients from the gradient of the outputs, [N, A + 1]."""
        model = self._model
        hidden, third = layers.hidden, layers.third
        gradient = _back_linear(
            gradient, hidden.to(torch.float32), model.heads, model.heads.weight
        ).to(self._dtype)
        gradient = _rectified(gradient, hidden)
        gradient = _back_linear(gradient, third.flatten(1), model.hidden, weights.hidden.weight)
        gradient = _rectified(gradient.view_as(third), third)
        gradient = _back_convolution(gradient, layers.second, model.conv3, weights.conv3.weight)
        gradient = _rectified(gradient, layers.second)
        gradient = _back_convolution(gradient, layers.first, model.conv2, weights.conv2.weight)
        gradient = _rectified(gradient, layers.first)
        weight = weights.conv1.weight
        _back_convolution(gradient, layers.images, model.conv1, weight, to_input=False)
        _grad(model.conv1.weight).mul_(model.scale)


def _room(model: ConvActorCritic, steps: int, envs: int, dtype: torch.dtype) -> Layers:
    """Allocate the activations of every layer, [steps, envs, ...]."""
    height, width = model.image_size
    room = [torch.zeros(steps, envs, height, width, model.conv1.in_channels, dtype=dtype)]
    for layer in (model.conv1, model.conv2, model.conv3):
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        height, width = ((side - kernel) // stride + 1 for side in (height, width))
        room.append(torch.zeros(steps, envs, height, width, layer.out_channels, dtype=dtype))
    room.append(torch.zeros(steps, envs, model.hidden.out_features, dtype=dtype))
    room.append(torch.zeros(steps, envs, model.heads.out_features))
    return Layers(*room)


def _convolve(x: Tensor, by: Pair, stride: tuple[int, ...], to: Tensor) -> None:
    """Write ReLU(convolution of `x` [b, C, H, W]) into `to`."""
    torch.clamp_min(F.conv2d(x, by.weight, by.bias, stride), 0.0, out=to)


def _rectified(gradient: Tensor, result: Tensor) -> Tensor:
    """Return the gradient before a ReLU whose output was `result`."""
    back: Tensor = torch.ops.aten.threshold_backward(gradient, result, 0.0)
    return back


def _back_linear(gradient: Tensor, x: Tensor, layer: nn.Linear, weight: Tensor) -> Tensor:
    """Set the gradients of the layer; return the gradient of its input `x` [N, I]."""
    _grad(layer.weight).copy_(product(gradient.t(), x))
    torch.sum(gradient, 0, dtype=torch.float32, out=_grad(layer.bias))
    return product(gradient, weight)


def _back_convolution(
    gradient: Tensor, x: Tensor, layer: nn.Conv2d, weight: Tensor, *, to_input: bool = True
) -> Tensor:
    """Set the gradients of the layer; return that of its input `x` [N, H, W, C] if `to_input`."""
    outputs, padding, dilation = layer.out_channels, [0, 0], [1, 1]
    to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
        *(_channels_first(gradient), _channels_first(x), weight, [outputs], layer.stride, padding),
        *(dilation, False, [0, 0], 1, [to_input, True, True]),
    )
    _grad(layer.weight).copy_(to_weight)
    _grad(layer.bias).copy_(to_bias)
    return to_x.permute(0, 2, 3, 1) if to_input else gradient


def _channels_first(x: Tensor) -> Tensor:
    """Return [N, H, W, C] as a view [N, C, H, W], the order of PyTorch's operators."""
    return x.permute(0, 3, 1, 2)


def _grad(parameter: Tensor | None) -> Tensor:
    return _known(_known(parameter).grad)


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
