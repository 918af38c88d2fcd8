"""Actor-critic networks by name. A new one: a file here, a line in `NETWORKS`; or one of your own.

    name, or package.module:factory --build_model--> observations in, logits and values out

What builds a network is called with the observations' shape, their type (`uint8` or `float32`) and
the number of the policy's outputs A, which is the distribution's `num_inputs`: the number of
actions where they are discrete; one of the user's also with `observation_scale`, if it has an
argument of that name: the factor that brings observations to the unit interval. It returns a
`torch.nn.Module` whose forward takes observations [B, *shape] of that type, unscaled, and returns
outputs [B, A] and values [B], float32. `checks` holds one of the user's against that. torch is
loaded only to build one.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from galamp.algorithms.networks.images import (
    SMALLEST_IMAGE,
    SMALLEST_MINATAR,
    SMALLEST_RESIDUAL,
    image_layout,
)
from galamp.core import user_code
from galamp.core.errors import UserError, did_you_mean
from galamp.core.settings import FACTORY, is_user_code

if TYPE_CHECKING:
    from torch import nn

    from galamp.algorithms.networks.base import ActorCritic

VECTOR, IMAGE = 1, 3
"""Dimensions of an observation."""


class Entry(NamedTuple):
    """What is known of a network by its name."""

    dimensions: int
    """Of the observations that it takes."""
    factory: str
    """`module:function`, loaded when asked for."""
    smallest: int = 0
    """Pixels a side that an image needs."""
    layer_norm: bool = False
    """Whether layers are normalised."""


NETWORKS = {
    "gala": Entry(IMAGE, "galamp.algorithms.networks.convolutional:gala", SMALLEST_IMAGE),
    "nature": Entry(IMAGE, "galamp.algorithms.networks.convolutional:nature", SMALLEST_IMAGE),
    "minatar": Entry(IMAGE, "galamp.algorithms.networks.minatar:minatar", SMALLEST_MINATAR),
    "nature-layernorm": Entry(
        IMAGE,
        "galamp.algorithms.networks.layer_norm:nature_layernorm",
        SMALLEST_IMAGE,
        layer_norm=True,
    ),
    "minatar-layernorm": Entry(
        IMAGE,
        "galamp.algorithms.networks.layer_norm:minatar_layernorm",
        SMALLEST_MINATAR,
        layer_norm=True,
    ),
    "impala-resnet": Entry(
        IMAGE, "galamp.algorithms.networks.residual:impala_resnet", SMALLEST_RESIDUAL
    ),
    "mlp": Entry(VECTOR, "galamp.algorithms.networks.perceptron:mlp"),
    "mlp-gru": Entry(VECTOR, "galamp.algorithms.networks.recurrent:mlp_gru"),
    "mlp-lstm": Entry(VECTOR, "galamp.algorithms.networks.recurrent:mlp_lstm"),
    "nature-gru": Entry(IMAGE, "galamp.algorithms.networks.recurrent:nature_gru", SMALLEST_IMAGE),
    "nature-lstm": Entry(IMAGE, "galamp.algorithms.networks.recurrent:nature_lstm", SMALLEST_IMAGE),
    "mlp-layernorm": Entry(
        VECTOR, "galamp.algorithms.networks.layer_norm:mlp_layernorm", layer_norm=True
    ),
}
"""By name; `auto` means the first that takes the observations, see `resolve_network`."""

AUTO = "auto"

EXPECTED = (
    f"{FACTORY}, a function that takes (observation_shape, observation_dtype, num_actions) and "
    "returns a torch.nn.Module"
)


def networks_for(dimensions: int) -> tuple[str, ...]:
    """Return the names of the networks for observations of so many dimensions."""
    return tuple(name for name, known in NETWORKS.items() if known.dimensions == dimensions)


def is_users(network: str) -> bool:
    """Whether a network is one of the user's own."""
    return ":" in network


def check_network_asked(stored: str, asked: str, holder: str, how: str = "add --network") -> None:
    """Refuse to import a module for a network that only a stored text names.

    Args are those of `user_code.check_asked`.

    Raises:
        UserError: the user has not named that network, or nothing can be meant by its name.
    """
    if is_users(stored) and not is_user_code(stored):
        raise UserError(f"network {stored!r:.80}: expected {FACTORY}")
    user_code.check_asked("--network", stored, asked, holder, how)


def build_model(
    network: str,
    observation_shape: tuple[int, ...],
    observation_dtype: str,
    num_outputs: int,
    *,
    seed: int,
    state_independent: int = 0,
    scale: float | None = None,
) -> nn.Module:
    """Make a network on the CPU, with initial weights that follow from `seed`.

    The same arguments give the same bits; what the process shares of randomness is left as it was.
    A network of the user's own may draw from it: from torch's, numpy's and Python's generators.

    Args:
        network: one of `NETWORKS`, or `package.module:factory`; see `resolve_network`.
        observation_shape: one observation's shape, without the batch.
        observation_dtype: `uint8` or `float32`.
        num_outputs: number of the policy's outputs A.
        seed: seed of the initial weights.
        state_independent: how many of the outputs, the last ones, are parameters that no
            observation changes; networks of the user's own give all of them in their own way.
        scale: factor of the observations; None: 1/255 for `uint8`, 1 for `float32`.

    Raises:
        UserError: the network does not fit the observations, or one of the user's cannot be made.
    """
    import torch

    from galamp.algorithms.networks.base import ActorCritic

    task = network, observation_shape, observation_dtype, num_outputs
    with _seeded(seed):
        model = _made(*task, state_independent, scale)
        if isinstance(model, ActorCritic):
            model.initialise(torch.Generator().manual_seed(seed))
    return model


def bare_model(
    network: str,
    observation_shape: tuple[int, ...],
    observation_dtype: str,
    num_outputs: int,
    *,
    state_independent: int = 0,
    scale: float | None = None,
) -> nn.Module:
    """Make a network whose parameters have shapes and no values, and take no memory.

    However large it is, its shapes can be looked at; `to_empty` then gives it memory. One of the
    user's own gets its values and memory at once: its code may need them.

    Args and errors are those of `build_model`.
    """
    import torch

    task = network, observation_shape, observation_dtype, num_outputs
    if is_users(network):
        return build_model(*task, seed=0, scale=scale)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _made(*task, state_independent, scale)


def resolve_network(
    network: str, observation_shape: tuple[int, ...], *, values: bool = False
) -> str:
    """Return the name of a network, where `auto` chooses by the observations.

    Where its outputs are to be `values` of actions, the first with layer normalisation is chosen,
    as PQN was published with, if there is one for these observations.

    Observations of three dimensions are images, see `image_layout`; any others are taken as
    vectors. A network of the user's own may take observations of any shape; nothing is imported
    for it.

    Raises:
        UserError: an unknown network, or one that cannot take observations of this shape.
    """
    if is_users(network):
        return network
    if network not in (AUTO, *NETWORKS):
        raise UserError(
            f"--network {network}: expected one of {', '.join((AUTO, *NETWORKS))}, or {FACTORY}"
            f"{did_you_mean(network, (AUTO, *NETWORKS))}"
        )
    names = fitting(observation_shape)
    if network == AUTO:
        normalised = [name for name in names if values and NETWORKS[name].layer_norm]
        return [*normalised, *names][0]
    if network not in names:
        smallest = NETWORKS[network].smallest
        need = f" (it needs images of at least {smallest} x {smallest} pixels)" if smallest else ""
        raise UserError(
            f"--network {network} cannot take observations of shape {list(observation_shape)}"
            f"{need}: use {' or '.join(names)}, or auto"
        )
    return network


def fitting(observation_shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of the networks that take observations of this shape, `auto`'s first.

    Images that are too small even for `minatar` may be taken as vectors, too.
    """
    if len(observation_shape) != IMAGE:
        return networks_for(VECTOR)
    layout = image_layout(observation_shape)
    side = min(layout.height, layout.width)
    names = tuple(name for name in networks_for(IMAGE) if NETWORKS[name].smallest <= side)
    return names if "minatar" in names else (*networks_for(VECTOR), *names)


def _made(
    network: str,
    observation_shape: tuple[int, ...],
    observation_dtype: str,
    num_outputs: int,
    state_independent: int,
    scale: float | None,
) -> nn.Module:
    from galamp.algorithms.networks.base import usual_scale

    if observation_dtype not in ("uint8", "float32"):
        raise UserError(
            f"observations of {observation_dtype} are not supported: expected uint8 or float32; "
            "convert them in the environment"
        )
    network = resolve_network(network, observation_shape)
    if scale is None:
        scale = usual_scale(observation_dtype)
    if is_users(network):
        return _users(network, scale, observation_shape, observation_dtype, num_outputs)
    module, _, name = NETWORKS[network].factory.partition(":")
    factory = getattr(importlib.import_module(module), name)
    dependent = num_outputs - state_independent
    model: ActorCritic = factory(observation_shape, observation_dtype, dependent)
    model.scale = scale
    if not state_independent:
        return model
    from galamp.algorithms.networks.gaussian import with_log_std

    return with_log_std(model, state_independent)


def _users(network: str, scale: float, *arguments: Any) -> nn.Module:
    """Call a factory of the user's."""
    import torch

    what = f"--network {network}"
    with user_code.mistakes_told(what, torch):
        factory = user_code.load(what, network, EXPECTED)
        more = {"observation_scale": scale} if _takes_scale(factory) else {}
        model = factory(*arguments, **more)
    if not isinstance(model, torch.nn.Module):
        raise UserError(
            f"{what}: expected a function that returns a torch.nn.Module, it returned "
            f"{type(model).__name__}"
        )
    return model


def _takes_scale(factory: Callable[..., Any]) -> bool:
    """Whether a factory of the user's has an argument `observation_scale`."""
    try:
        return "observation_scale" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def taking(
    model: nn.Module,
    network: str,
    observation_shape: tuple[int, ...],
    observation_dtype: str,
    num_outputs: int,
    scale: float | None = None,
) -> nn.Module:
    """Return a network for observations of another type; it shares every parameter of `model`.

    Args and errors are those of `build_model`.
    """
    import torch

    from galamp.algorithms.networks.base import ActorCritic

    if isinstance(model, ActorCritic):
        return model.taking(observation_dtype, scale)
    other = bare_model(network, observation_shape, observation_dtype, num_outputs, scale=scale)
    with user_code.mistakes_told(f"--network {network}", torch):
        other.load_state_dict(model.state_dict(), assign=True)
    return other


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what code in this process shares of randomness, for a while, and compute on one thread.

    The bits of the QR decomposition, which orthogonal weights are made by, depend on the threads.
    """
    import numpy as np
    import torch

    threads, drawn, drawn_arrays = (
        torch.get_num_threads(),
        random.getstate(),
        np.random.get_state(),
    )
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(drawn)
        np.random.set_state(drawn_arrays)
