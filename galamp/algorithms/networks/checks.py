"""Check of a network of the user's, before any process is started for it.

    network --built twice: the same weights?--> parameters --forward on zeros--> logits and values

Runs in the parent, and where a trained agent is loaded. What is refused here would otherwise be
lost on the way (buffers, which are neither gossiped nor saved) or end every learner at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from galamp.algorithms.networks import build_model, is_users
from galamp.core import user_code
from galamp.core.errors import UserError
from galamp.core.sanitize import is_tensor_name

BATCHES = (2, 1)
"""Observations at once; with one, a `squeeze` too many is found."""

MAX_DIMENSIONS = 8
"""Of a parameter, as checkpoints hold it."""


def check_network(
    network: str,
    observation_shape: tuple[int, ...],
    observation_dtype: str,
    num_outputs: int,
    *,
    seed: int,
    scale: float | None = None,
    twice: bool = False,
) -> None:
    """Build a network of the user's and try it out; galamp's own need no such check.

    Args are those of `build_model`, and `twice`: whether a learner has two of it, one to act.

    Raises:
        UserError: it cannot be trained, see `check_model`; its initial weights do not follow from
            the seed, and so would differ from learner to learner; or two of it would be one.
    """
    if not is_users(network):
        return
    task = observation_shape, observation_dtype, num_outputs
    model, twin = (build_model(network, *task, seed=seed, scale=scale) for _ in range(2))
    check_model(network, model, *task)
    check_model(network, twin, *task)
    mine, others = dict(model.named_parameters()), dict(twin.named_parameters())
    same = mine.keys() == others.keys()
    if not same or not all(torch.equal(mine[name], others[name]) for name in mine):
        raise UserError(
            f"--network {network}: two calls have given different weights: expected the same from "
            "the same seed; draw from torch's, numpy's or random's own generator, and seed none"
        )
    if twice and any(mine[name] is others[name] for name in mine):
        raise UserError(
            f"--network {network}: two calls have returned the same parameters: expected new ones "
            "from each, as with --pipeline one network acts and another learns; make the module in "
            "the function, or leave --pipeline out"
        )


def check_model(
    network: str,
    model: nn.Module,
    observation_shape: tuple[int, ...],
    observation_dtype: str,
    num_outputs: int,
) -> None:
    """Try out a network of the user's on zeros.

    Raises:
        UserError: it has parameters or buffers that cannot be trained, gossiped and saved, or its
            forward does not return what it should.
    """
    what = f"--network {network}"
    _check_parameters(what, model)
    for size in BATCHES:
        batch = torch.zeros(size, *observation_shape, dtype=getattr(torch, observation_dtype))
        with user_code.mistakes_told(what, torch):
            first, again = model(batch), model(batch)
        _check_outputs(what, first, batch, num_outputs)
        _check_outputs(what, again, batch, num_outputs)
        if not all(torch.equal(mine, other) for mine, other in zip(first, again, strict=True)):
            raise UserError(
                f"{what}: forward has returned two things for the same observations: expected no "
                "dropout and nothing else random in it"
            )


def _check_parameters(what: str, model: nn.Module) -> None:
    buffer = next((name for name, _ in model.named_buffers()), None)
    if buffer is not None:
        raise UserError(
            f"{what}: the buffer {buffer} would be neither gossiped nor saved: expected parameters "
            "only, such as of LayerNorm in place of BatchNorm"
        )
    parameters = list(model.named_parameters())
    if not parameters:
        raise UserError(f"{what}: the network has no parameters: expected some to train")
    for name, parameter in parameters:
        problem = _problem(name, parameter)
        if problem:
            raise UserError(f"{what}: the parameter {name} {problem}")


def _problem(name: str, parameter: nn.Parameter) -> str | None:
    """Return in words why a parameter cannot be trained, gossiped and saved; None if it can."""
    if not is_tensor_name(name):
        return "has a name that checkpoints cannot hold: expected ASCII letters, digits, . _ -"
    if nn.parameter.is_lazy(parameter):
        return "has no shape yet: expected layers with all sizes given"
    if parameter.dtype is not torch.float32 or parameter.device.type != "cpu":
        kind = str(parameter.dtype).removeprefix("torch.")
        return f"is {kind} on {parameter.device}: expected float32 on the CPU"
    if not parameter.requires_grad:
        return "is not trained: expected requires_grad for all; keep constants out of parameters"
    if not parameter.numel() or parameter.dim() > MAX_DIMENSIONS:
        return f"has shape {list(parameter.shape)}: expected 1 to {MAX_DIMENSIONS} sizes above 0"
    return None


def _check_outputs(what: str, outputs: Any, batch: Tensor, num_outputs: int) -> None:
    """Raise UserError unless `outputs` are finite logits [B, A] and values [B] of `batch`."""
    size = len(batch)
    pair = isinstance(outputs, tuple | list) and len(outputs) == 2
    tensors = pair and all(isinstance(each, Tensor) for each in outputs)
    forms = [(tuple(each.shape), each.dtype) for each in outputs] if tensors else []
    if forms != [((size, num_outputs), torch.float32), ((size,), torch.float32)]:
        raise UserError(
            f"{what}: for observations {_form(batch)} forward returned {_told(outputs)}: expected "
            f"logits float32 [{size}, {num_outputs}] and values float32 [{size}]"
        )
    if not all(bool(each.isfinite().all()) for each in outputs):
        raise UserError(
            f"{what}: for observations of zeros forward returned NaN or infinity: expected finite "
            "logits and values"
        )
    if not (outputs[0].requires_grad and outputs[1].requires_grad):
        raise UserError(
            f"{what}: what forward returns has no gradient: expected logits and values that depend "
            "on the parameters; leave out detach and no_grad"
        )


def _told(outputs: Any) -> str:
    """Return in words what a forward has returned."""
    if isinstance(outputs, tuple | list) and len(outputs) <= 4:
        return " and ".join(map(_form, outputs)) or "nothing"
    return _form(outputs)


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"
