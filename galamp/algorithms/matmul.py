"""Matrix products on CPUs, with the faster of PyTorch's two libraries.

PyTorch computes float32 products with MKL, which uses only half of the vector unit on processors
other than Intel's. oneDNN, which computes PyTorch's convolutions, uses all of it on every
processor. Its only access to float32 products is the operator that PyTorch's compiler uses for
linear layers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def _has_onednn() -> bool:
    """Whether the oneDNN operator exists and works as it is used below."""
    ones = torch.ones(2, 2)
    try:
        return bool((_linear(ones, ones, None) == 2.0).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


ONEDNN = _has_onednn()


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right, [N, I] x [I, M], in the type of both.

    Both must be whole matrices or their transposes: for parts of larger matrices oneDNN has only
    its reference implementation, which is far too slow.
    """
    if ONEDNN and left.dtype is torch.float32:
        return _linear(left, right.t(), None)
    return left @ right


def rectified_linear(x: Tensor, weight: Tensor, bias: Tensor, to: Tensor) -> None:
    """Put max(0, x weight^T + bias) into `to` [N, O]; x is [N, I], weight [O, I], bias [O]."""
    if ONEDNN and x.dtype is torch.float32:
        # Not with oneDNN's own ReLU: it turns NaN into 0, and so would hide a divergence.
        torch.clamp_min(_linear(x, weight, bias), 0.0, out=to)
    else:
        torch.addmm(bias, x, weight.t(), out=to).relu_()
