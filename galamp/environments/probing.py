"""The parent's side of the environment's probe: start it, and take its answer for a spec.

start_probe(config) --request--> environments.probe, in a process of core.processes.probe_process
finish_probe        <--answer--  {"spec": ...} or {"problems": [...], "details": ...}
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from typing import Any

from galamp.core.config import EnvironmentConfig, ResourceConfig
from galamp.core.errors import UserError
from galamp.core.processes.probe_process import Answer, Probing
from galamp.environments.base import EnvironmentSpec

START_TIMEOUT_S: float = ResourceConfig.start_timeout_s

_FATAL = re.compile(r"^Fatal Python error: .*$", re.MULTILINE)


class Probe(Probing):
    """A process that tries an environment out."""

    def __init__(self, config: EnvironmentConfig, *, timeout_s: float, seed: int) -> None:
        """Start it; it has `timeout_s` for its answer, and `seed` for what is random in it."""
        self.env_id = config.env_id
        request = {"environment": dataclasses.asdict(config), "seed": seed}
        super().__init__("galamp.environments.probe", request, timeout_s=timeout_s)

    def spec(self) -> EnvironmentSpec:
        """Wait for the answer; the process and its helpers are gone afterwards.

        Raises:
            UserError: the probe's own complaint, or how it ended where it could not complain. Its
                `details` are the traceback, or what was written to standard error.
        """
        return self._spec(self.answer())

    def _spec(self, answer: Answer) -> EnvironmentSpec:
        told: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(answer.text)
        if not isinstance(told, dict):
            told = {}
        if "spec" in told:
            return EnvironmentSpec.from_dict(told["spec"])
        if "problems" in told:
            raise _error(told["problems"], told["details"])
        errors = answer.errors
        if not answer.in_time:
            late = f"{self.env_id}: did not start within {self.timeout_s:g} s"
            raise _error([f"{late}: if it needs longer, allow more with --start-timeout-s"], errors)
        fatal = _FATAL.search(errors)
        last = fatal[0] if fatal else (errors.splitlines() or ["it printed nothing"])[-1]
        more = errors if "\n" in errors else ""
        raise _error([f"{self.env_id}: did not start ({self.ending}): {last}"], more)


def start_probe(
    config: EnvironmentConfig, *, timeout_s: float = START_TIMEOUT_S, seed: int = 0
) -> Probe:
    """Start a process that tries the environment out, to be awaited by `finish_probe`."""
    return Probe(config, timeout_s=timeout_s, seed=seed)


def finish_probe(probe: Probe) -> EnvironmentSpec:
    """Wait for a probe and return the spec that it found; see `Probe.spec`.

    Raises:
        UserError: the environment cannot be used.
    """
    return probe.spec()


def _error(problems: list[str], details: str) -> UserError:
    error = UserError(*problems)
    error.details = details
    return error
