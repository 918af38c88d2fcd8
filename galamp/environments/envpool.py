"""EnvPool's vector environments (Weng et al. 2022), in their Gymnasium API, as `VectorEnv`s.

    envpool.make_gymnasium(task_id=..., num_envs=B, seed=[...]) --of_envpool--> VectorEnv

Runs in simulator processes and in the probe. EnvPool itself is not imported here. Its seeds are
fixed when it is made, and it resets in the next step. Until version 1.2 it is a `gymnasium.Env`
whose spaces are those of one environment.
"""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

PACKAGE = "envpool"


def is_of_envpool(made: object) -> bool:
    """Whether a function, or an environment by one of its classes, is of the package."""
    parts = type(made).__mro__ if not hasattr(made, "__qualname__") else (made,)
    return any(str(part.__module__).partition(".")[0] == PACKAGE for part in parts)


def of_envpool(made: Any) -> Any:
    """Return EnvPool's environments as a `VectorEnv`; anything else as it is."""
    if isinstance(made, VectorEnv) or not is_of_envpool(made):
        return made
    return EnvPool(made)


class EnvPool(VectorEnv[Any, Any, Any]):
    """B environments of EnvPool."""

    def __init__(self, pool: Any) -> None:
        """Take over what `envpool.make_gymnasium` has made."""
        self._pool = pool
        self.num_envs = int(pool.config["num_envs"])
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = pool.observation_space
        self.single_action_space = pool.action_space
        self.observation_space = batch_space(pool.observation_space, self.num_envs)
        self.action_space = batch_space(pool.action_space, self.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Restart all environments; `seed` is not used: theirs were given when they were made."""
        del seed, options
        return self._pool.reset()  # type: ignore[no-any-return]

    def step(self, actions: Any) -> Any:
        """Step all environments."""
        return self._pool.step(actions)

    def close(self, **others: Any) -> None:
        """Free them."""
        del others
        self._pool.close()
