"""An algorithm defined outside the package; `--algorithm tests.support.toy_algorithm:Reinforce`.

This file and that name are all that there is of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from galamp.algorithms.base import Acted, Algorithm, Rollout, trainable
from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import Place
from galamp.algorithms.returns import n_step_returns
from galamp.core.action_spec import ActionSpec
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.settings import option


@dataclass(frozen=True)
class ReinforceConfig(AlgorithmConfig):
    """REINFORCE (Williams 1992) with a running mean of returns as its baseline."""

    gauges: ClassVar[Mapping[str, str]] = {
        "baseline": "running mean of the returns",
        "grad_norm": "L2 norm of the gradient before clipping",
    }

    num_steps: int = option(20, "rollout length", unit="agent steps", low=1, high=4096)
    baseline_decay: float = option(0.9, "decay of the running mean", low=0.0, high=1.0)

    @classmethod
    def default_learning_rate(cls, learners: int) -> float:
        """Return the same for any number of learners."""
        return 0.03


class Reinforce(Algorithm):
    """REINFORCE with plain gradient steps of norm 1 at most."""

    config_class: ClassVar[type[AlgorithmConfig]] = ReinforceConfig

    def __init__(
        self,
        config: ReinforceConfig,
        model: nn.Module,
        *,
        actions: ActionSpec,
        device: torch.device | str,
        seed: int,
    ) -> None:
        self._config, self._model = config, model
        self._distribution = make_distribution(actions, device)
        self.parameters = FlatParameters(model, device)
        self._baseline = torch.zeros(1, device=device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.version = 0

    def prepare(self, steps: int, envs: int) -> None:
        """Nothing is kept of acting."""

    def act(self, observations: Tensor, first: Tensor, place: Place | None = None) -> Acted:
        with torch.inference_mode():
            return Acted(self._distribution.sample(self._model(observations)[0], self.generator))

    def record(self, rollout: Rollout, graphs: Graphs, reduces: bool | None) -> None:
        raise RuntimeError("REINFORCE reads numbers in the middle of its update")

    def update(
        self, rollout: Rollout, reduce: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        mean_return = self._descend(trainable(rollout))
        from_all = reduce is not None and reduce()
        norm = self.parameters.grad.norm()
        if mean_return is not None:
            self._baseline.lerp_(mean_return, 1.0 - self._config.baseline_decay)
        if mean_return is not None or from_all:
            assert self._config.learning_rate is not None
            step = self._config.learning_rate / norm.clamp(min=1.0)
            self.parameters.data.sub_(step * self.parameters.grad)
            self.version += 1
        return {"baseline": float(self._baseline), "grad_norm": float(norm)}

    def _descend(self, rollout: Rollout) -> Tensor | None:
        """Set the gradient, and return the mean return []; None without valid transitions."""
        count = rollout.valid.sum()
        weights = rollout.valid / count.clamp(min=1)
        unknown = torch.zeros_like(rollout.rewards[:1])
        returns = n_step_returns(
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            torch.cat((torch.zeros_like(rollout.rewards), unknown)),
            self._config.gamma,
        )
        outputs = self._model(rollout.observations[:-1].flatten(0, 1))[0]
        outputs = outputs.view(*rollout.rewards.shape, -1)
        log_taken = self._distribution.log_prob(outputs, rollout.actions)
        self.parameters.zero_grad()
        (-(weights * (returns - self._baseline) * log_taken).sum()).backward()  # type: ignore[no-untyped-call]
        return (weights * returns).sum() if count else None

    def state(self) -> dict[str, Tensor]:
        return {"parameters": self.parameters.data, "baseline": self._baseline}
