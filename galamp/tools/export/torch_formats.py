"""Formats that PyTorch reads: TorchScript, which brings the network, and safetensors without it.

Runs in `galamp export`.
"""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any, ClassVar

import torch
from safetensors.torch import load, save
from torch import nn

from galamp.tools.evaluation.policy_module import PolicyModule
from galamp.tools.export.formats import Array, Example, Format, Function


class TorchScriptFormat(Format):
    """TorchScript: for `torch.jit.load`, and for libtorch in C++."""

    ending: ClassVar[str] = ".pt"

    def written(self, module: PolicyModule, example: Example) -> bytes:
        """Trace the module; see `Format.written`."""
        buffer = io.BytesIO()
        with _quiet(), torch.no_grad():
            given = tuple(map(torch.from_numpy, example.arrays))
            traced = torch.jit.trace(module, given)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, buffer)
        return buffer.getvalue()

    def read(self, content: bytes, module: PolicyModule) -> Function:
        """See `Format.read`."""
        with _quiet():
            found: nn.Module = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
            return function_of(found)


class SafetensorsFormat(Format):
    """Safetensors: the `state_dict` of `Agent.module`, for whoever has the network."""

    ending: ClassVar[str] = ".safetensors"

    def written(self, module: PolicyModule, example: Example) -> bytes:
        """See `Format.written`."""
        tensors = {name: each.contiguous() for name, each in module.state_dict().items()}
        return save(tensors)

    def read(self, content: bytes, module: PolicyModule) -> Function:
        """Fill a copy of the module that holds no weights; see `Format.read`."""
        empty = copy.deepcopy(module)
        for each in empty.state_dict().values():
            each.zero_()
        empty.load_state_dict(load(content))
        return function_of(empty)


def function_of(module: nn.Module) -> Function:
    """Return what a module computes, as a function of arrays."""

    def compute(observations: Array, states: Array | None) -> list[Array]:
        given = [torch.from_numpy(each) for each in (observations, states) if each is not None]
        with torch.no_grad():
            outputs: tuple[Any, ...] = module(*given)
        return [each.numpy() for each in outputs]

    return compute


def _quiet() -> warnings.catch_warnings[None]:
    """Return a context without warnings: PyTorch calls TorchScript deprecated in each of them."""
    return warnings.catch_warnings(action="ignore")
