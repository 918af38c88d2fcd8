"""Network of a trained agent, with its parameters, and what normalises its observations.

    Trained --trained_network--> nn.Module, --normalised--> the same under its normaliser, Scales

Runs in evaluation and in users' programs.
"""

from __future__ import annotations

import torch
from torch import nn

from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.networks import bare_model, is_users
from galamp.algorithms.networks.checks import check_model
from galamp.algorithms.normalising import from_raw, layers_of
from galamp.core.errors import CheckpointError, UserError
from galamp.core.normalisation import NormaliserSpec, Scales
from galamp.storage.checkpoint import FLOAT_BYTES, too_large
from galamp.tools.evaluation.trained import Learner, Trained


def trained_network(
    trained: Trained, learner: Learner, dtype: str, device: torch.device
) -> nn.Module:
    """Return the training's network for observations of `dtype`, with a learner's parameters.

    A checkpoint may name any number of actions: memory is allocated only after the network's
    parameters are known to be as large as the stored ones.

    Raises:
        CheckpointError: they are not, or they are not finite.
    """
    identity = trained.checkpoint.identity
    distribution = make_distribution(identity.actions)
    task = identity.observation_shape, dtype, distribution.num_inputs
    try:
        model = bare_model(
            identity.network,
            *task,
            state_independent=distribution.state_independent,
            # Normalised observations are no longer in the units that the scale is for.
            scale=None if trained.scales(learner) else identity.observation_scale,
        )
        if is_users(identity.network):
            check_model(identity.network, model, *task)
    except UserError as error:
        unfit = CheckpointError(f"checkpoint {trained.path}: {error}")
        unfit.details = error.details
        raise unfit from None
    layout = [(name, tuple(each.shape)) for name, each in model.named_parameters()]
    misfit = identity.misfit(layout)
    # The mean of all learners' parameters, the network's own, and room for gradients.
    large = too_large(3 * FLOAT_BYTES * identity.num_parameters)
    if misfit or large:
        problem = misfit or f"its network, as it is built, takes {large}"
        raise CheckpointError(f"checkpoint {trained.path}: {problem}")
    values = trained.parameters(learner)
    if not is_users(identity.network):
        model = model.to_empty(device="cpu")
    flat = FlatParameters(model, device)
    flat.load_named({name: torch.from_numpy(value) for name, value in values.items()})
    model.zero_grad(set_to_none=True)  # acting needs no gradients
    return model


def normalised(trained: Trained, learner: Learner, model: nn.Module) -> Scales | None:
    """Express the network in the scales of its observations; return these, None if it has none.

    Raises:
        CheckpointError: there are no sound statistics, or the network cannot be normalised.
    """
    scales, identity = trained.scales(learner), trained.checkpoint.identity
    if scales is None:
        return None
    try:
        spec = NormaliserSpec(len(scales.mean), rewards=False)
        layers = layers_of(model, identity.network, spec)
    except UserError as error:
        raise CheckpointError(f"checkpoint {trained.path}: {error}") from None
    from_raw(layers, scales, scales)
    return scales
