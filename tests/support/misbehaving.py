"""Environments of careless users: `--env-id tests.support.misbehaving:NAME` or `:Id-v0`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

FLOATS = Box(-1e300, 1e300, (2,), np.float64)
BYTES = Box(0, 255, (2,), np.uint8)


class Scripted(gymnasium.Env[Any, Any]):
    """Returns what it was made with; its episodes end after ten steps."""

    action_space = Discrete(2)

    def __init__(
        self,
        *,
        reset: Any = None,
        observation: Any = None,
        reward: Any = 1.0,
        terminated: Any = None,
        truncated: Any = False,
        space: Any = FLOATS,
    ) -> None:
        self.observation_space = space
        self._good = np.zeros(space.shape, space.dtype)
        self._reset = (self._good, {}) if reset is None else reset
        self._observation = self._good if observation is None else observation
        self._rest = reward, terminated, truncated
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return self._reset

    def step(self, action: Any) -> Any:
        self._steps += 1
        reward, terminated, truncated = self._rest
        over = self._steps == 10 if terminated is None else terminated
        return self._observation, reward, over, truncated, {}


settings: dict[str, Any] = {}


def scripted() -> Scripted:
    """With the module's `settings`, which a test in this process may change."""
    return Scripted(**settings)


class NoneAsObservation(Scripted):
    def step(self, action: Any) -> Any:
        return None, *super().step(action)[1:]


class OldStep(Scripted):
    """Four values, as in the old Gym API."""

    def step(self, action: Any) -> Any:
        observation, reward, over, _, info = super().step(action)
        return observation, reward, over, info


class OldReset(Scripted):
    """The observation alone."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class SeedlessReset(Scripted):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class OldGymBase:
    """Stands in for `gym.Env`, which is not installed."""

    observation_space, action_space = FLOATS, Discrete(2)


OldGymBase.__module__ = "gym.core"


class OldGym(OldGymBase):
    pass


class Spaceless(gymnasium.Env[Any, Any]):
    action_space = Discrete(2)


class OldBox:
    """Stands in for a space of `gym.spaces`."""


OldBox.__module__ = "gym.spaces.box"


class OldSpace(gymnasium.Env[Any, Any]):
    observation_space, action_space = OldBox(), Discrete(2)  # type: ignore[assignment]


class Tenths(Scripted):
    def __init__(self) -> None:
        super().__init__(reward=0.1)


gymnasium.register("Careless-v0", Scripted)
gymnasium.register("Limited-v0", Scripted, max_episode_steps=5)
gymnasium.register("careless/Nested.Name-v3", Scripted)
gymnasium.register("Plain", Scripted)
gymnasium.register("healthy", OldReset)  # a function of that name is there, too: it comes first
gymnasium.register("OldInside-v0", OldStep, max_episode_steps=5)
gymnasium.register("Dependent-v0", "tests.support.misbehaving:needing_more")


def needing_more() -> None:
    raise gymnasium.error.DependencyNotInstalled("box of toys is missing: pip install toys")


def healthy() -> Scripted:
    return Scripted()


class Namespace:
    healthy = staticmethod(healthy)


def _at(moment: str, do: Callable[[], object]) -> Callable[[], Scripted]:
    """Return a factory whose environment does something when it is made, reset, or stepped."""

    class Doing(Scripted):
        def __init__(self) -> None:
            super().__init__()
            if moment == "make":
                do()

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if moment == "reset":
                do()
            return super().reset(seed=seed)

        def step(self, action: Any) -> Any:
            if moment == "step":
                do()
            return super().step(action)

    return Doing


def _raise() -> None:
    raise LookupError("no level\nof that name")


raising_in_make = _at("make", _raise)
raising_in_reset = _at("reset", _raise)
raising_in_step = _at("step", lambda: np.linalg.inv(np.zeros((2, 2))))


class RaisingInClose(Scripted):
    def close(self) -> None:
        raise OSError("the window is closed already")


leaving_in_step = _at("step", lambda: sys.exit(3))
crashing_in_reset = _at("reset", lambda: ctypes.string_at(0))
aborting_in_make = _at("make", lambda: (print("first\nsecond", file=sys.stderr), os._exit(7)))

endless_make = _at("make", lambda: time.sleep(600))
endless_reset = _at("reset", lambda: time.sleep(600))
endless_step = _at("step", lambda: time.sleep(600))
slow_make = _at("make", lambda: time.sleep(0.3))

with_thread = _at("make", lambda: threading.Thread(target=time.sleep, args=(600,)).start())


class LeavingOnce(Scripted):
    """Has a thread that is no daemon, and ends its process once, well into the training."""

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=time.sleep, args=(600,)).start()
        self._all_steps = 0

    def step(self, action: Any) -> Any:
        self._all_steps += 1
        if self._all_steps == 100:
            with contextlib.suppress(FileExistsError):  # another simulator was first
                open(os.environ["TEST_FAILED_ONCE"], "x").close()
                sys.exit()
        return super().step(action)


def _leave_helper() -> None:
    """Start a process that holds all that it inherits open, and tell its id."""
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(os.environ["TEST_HELPER"], "w") as file:
        file.write(str(helper.pid))


def _leave_in_session() -> None:
    """Start one that hides in a session of its own, and another that only its child knows of."""
    helper = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})
    shell = "setsid sh -c 'sleep 600 & echo $!' >> \"$TEST_HELPER\""
    with open(os.environ["TEST_HELPER"], "w") as file:
        file.write(f"{helper.pid} ")
    subprocess.run(["sh", "-c", shell], check=True)


with_helper = _at("reset", _leave_helper)
with_hidden_helpers = _at("reset", _leave_in_session)
crashing_with_helpers = _at("step", lambda: (_leave_in_session(), ctypes.string_at(0)))
endless_with_helpers = _at("step", lambda: (_leave_in_session(), time.sleep(600)))
endless_with_helper = _at("reset", lambda: (_leave_helper(), time.sleep(600)))


class TwoActions(gymnasium.Env[Any, Any]):
    """Actions that nothing can be trained to take."""

    observation_space = FLOATS
    action_space = gymnasium.spaces.Dict(a=Discrete(2))
