"""Environments that fail in every way in which a simulator can fail.

`--env-id tests.support.crashing:NAME`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from galamp.core.processes.titles import without_run

HEALTHY_STEPS = 300
PAUSE_S = 0.001


class Failing(gymnasium.Env[Any, Any]):
    """A trivial environment that calls `fail` after `HEALTHY_STEPS` steps.

    From then on it leaves the cores to others for most of the time: a run is watched cheaply.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fail: Callable[[], None]) -> None:
        self._fail, self._steps = fail, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        if self._steps == HEALTHY_STEPS:
            self._fail()
        if self._steps > HEALTHY_STEPS:
            time.sleep(PAUSE_S)
        return np.zeros(2, np.float32), float(action), self._steps % 50 == 0, False, {}


def _raise() -> None:
    raise ZeroDivisionError("the game divided by zero")


def raising() -> Failing:
    return Failing(_raise)


def exiting() -> Failing:
    return Failing(lambda: ctypes.CDLL(None).exit(1))


def crashing() -> Failing:
    return Failing(lambda: os.kill(os.getpid(), signal.SIGSEGV))


def hanging() -> Failing:
    return Failing(lambda: time.sleep(3600))


def _only_once(fail: Callable[[], None]) -> Callable[[], None]:
    """Do it in one incarnation only: the file that TEST_FAILED_ONCE names remembers it."""

    def attempt() -> None:
        try:
            os.close(os.open(os.environ["TEST_FAILED_ONCE"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        fail()

    return attempt


def once() -> Failing:
    return Failing(_only_once(_raise))


def glutton() -> Failing:
    """Takes more memory than there is."""
    return Failing(_only_once(lambda: hoard.append(np.ones(2**40, np.uint8))))


hoard: list[Any] = []


class Poisoned(Failing):
    """Gives a reward that is no number, once."""

    def __init__(self) -> None:
        super().__init__(_only_once(self._poison))
        self._reward = 1.0

    def _poison(self) -> None:
        self._reward = float("nan")

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        reward, self._reward = self._reward, 1.0
        return observation, reward, *rest


def poisoned() -> Failing:
    return Poisoned()


class Overwhelming(Poisoned):
    """Gives a reward that a learner can hold, once, and whose square it cannot."""

    def _poison(self) -> None:
        self._reward = 3e38


def overwhelming() -> Failing:
    return Overwhelming()


def _is_in(title: str) -> bool:
    """Whether this process has a title that begins so, whichever the run."""
    with open("/proc/self/cmdline", "rb") as file:
        return without_run(file.read().decode()).startswith(f"galamp: {title}")


def picky() -> Failing:
    """Cannot stand to be in the first simulator of learner 0."""
    return Failing(_raise if _is_in("simulator 0.0") else lambda: None)


def crowded() -> Failing:
    """Works beside nobody but the simulators of learner 0."""
    if _is_in("simulator") and not _is_in("simulator 0."):
        raise RuntimeError("it is crowded")
    return unhurried()


def stumbling() -> Failing:
    """Fails once, in the first simulator of learner 1."""
    return Failing(_only_once(_raise) if _is_in("simulator 1.0") else lambda: None)


def dozing() -> Failing:
    """Is late once, in the first simulator of learner 1, for longer than that waits."""
    late = _only_once(lambda: time.sleep(2.0))
    return Failing(late if _is_in("simulator 1.0") else lambda: None)


def healthy() -> Failing:
    return Failing(lambda: None)


class Unhurried(Failing):
    """Leaves the cores to others for most of the time from the first step on."""

    def step(self, action: Any) -> Any:
        if self._steps < HEALTHY_STEPS:
            time.sleep(PAUSE_S)
        return super().step(action)


def unhurried() -> Failing:
    return Unhurried(lambda: None)


class Accompanied(Unhurried):
    """Has started a program in a session of its own, and tells its id to whoever wants to know."""

    def __init__(self, fail: Callable[[], None]) -> None:
        super().__init__(fail)
        helper = subprocess.Popen(["sleep", "600"], start_new_session=True)
        if "TEST_HELPER" in os.environ:
            with open(os.environ["TEST_HELPER"], "a") as file:
                file.write(f"{helper.pid}\n")


class Asked(Unhurried):
    """Fails once as soon as there is the file that TEST_FAIL_NOW names."""

    def step(self, action: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.environ["TEST_FAIL_NOW"])
            _raise()
        return super().step(action)


def asked() -> Failing:
    return Asked(lambda: None)


def accompanied() -> Failing:
    return Accompanied(lambda: None)


def unmakeable() -> Failing:
    """Succeeds in the preflight, which makes one, and fails in the simulators."""
    if _is_in("simulator"):
        raise OSError("no such file: level.dat")
    return healthy()
