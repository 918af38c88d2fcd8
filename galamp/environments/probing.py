"""Parent's side of the environment probe: start the process, and convert its answer to a spec.

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
    """Process that tries an environment."""

    def __init__(self, config: EnvironmentConfig, *, timeout_s: float, seed: int) -> None:
        """Start the probe; it has `timeout_s` to answer, and seeds its generators by `seed`."""
        self.env_id = config.env_id
        request = {"environment": dataclasses.asdict(config), "seed": seed}
        super().__init__("galamp.environments.probe", request, timeout_s=timeout_s)

    def spec(self) -> EnvironmentSpec:
        """Wait for the answer; the process and its descendants have ended afterwards.

        Raises:
            UserError: the problems that the probe reports, or how it ended without an answer. The
                `details` are the traceback, or the text on standard error.
        """
        return self._spec(self.answer())

    def _spec(self, answer: Answer) -> EnvironmentSpec:
        found: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(answer.text)
        if not isinstance(found, dict):
            found = {}
        if "spec" in found:
            return EnvironmentSpec.from_dict(found["spec"])
        if "problems" in found:
            raise _error(found["problems"], found["details"])
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
    """Start a process that tries the environment; `finish_probe` waits for it."""
    return Probe(config, timeout_s=timeout_s, seed=seed)


def finish_probe(probe: Probe) -> EnvironmentSpec:
    """Wait for a probe and return the spec; see `Probe.spec`.

    Raises:
        UserError: the environment cannot be used.
    """
    return probe.spec()


def _error(problems: list[str], details: str) -> UserError:
    error = UserError(*problems)
    error.details = details
    return error
