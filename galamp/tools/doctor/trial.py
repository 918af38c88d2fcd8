"""Trial of `galamp doctor`: torch, GPUs and speed, tried in a process of their own.

    tried(seconds) --request--> main: loads torch, tries GPUs, trains on one core
                   <--Found as JSON--    findings_of --> Finding

A library that does not fit the processor or the driver ends that process only.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from galamp.core.decode import Limits, decode
from galamp.core.errors import EXIT_OK
from galamp.core.json_values import DecodeError, json_object
from galamp.core.machine.memory import PROC
from galamp.core.processes.probe_process import Probing
from galamp.core.sanitize import clean
from galamp.environments.names import list_games
from galamp.tools.doctor.finding import Finding

SECONDS = 3.0
TIMEOUT_S = 180.0
"""For all of it: a driver may need many seconds to wake a GPU, and torch as many to load."""
ENVS = 16
ATARI, PLAIN = ("ALE/Breakout-v5", "gala"), ("CartPole-v1", "mlp")
"""What the speed is measured with: environment and network."""
DRIVER = "driver/nvidia/version"
LIMITS = Limits(more_fields=True)


@dataclass(frozen=True)
class Found:
    """What a trial has found.

    Attributes:
        torch: its version.
        cuda: CUDA that it was built for; empty without.
        gpus: names of the GPUs that can be used.
        unusable: device -> why it cannot be used.
        env_id: environment of the speed test.
        part_ms: milliseconds of one core per agent step, by part: emulate, act, learn.
        failure: why the speed could not be measured; empty if it could.
    """

    torch: str
    cuda: str
    gpus: tuple[str, ...]
    unusable: dict[str, str]
    env_id: str
    part_ms: dict[str, float]
    failure: str = ""

    @property
    def rate(self) -> float:
        """Agent steps per second of one core."""
        return 1e3 / max(sum(self.part_ms.values()), 1e-9)


def main(request: dict[str, Any]) -> None:
    """Try everything, and answer with one line of JSON."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to stderr
    found = _try(request["seconds"])
    os.write(answer, f"{json.dumps(asdict(found))}\n".encode())
    os._exit(EXIT_OK)  # does not wait for what a GPU's library still does


def _try(seconds: float) -> Found:
    import torch

    from galamp.core.machine.machine import inspect_gpus

    gpus, unusable = inspect_gpus("auto")
    env_id, network = ATARI if list_games() else PLAIN
    part_ms, failure = dict[str, float](), ""
    try:
        part_ms = measured(env_id, network, seconds)
    except Exception as error:  # of an emulator or an environment; torch was loaded before
        traceback.print_exc()
        failure = f"{type(error).__name__}: {error}"
    return Found(
        torch.__version__,
        torch.version.cuda or "",
        tuple(f"{gpu.device} {gpu.name}" for gpu in gpus),
        unusable,
        env_id,
        part_ms,
        failure,
    )


def measured(env_id: str, network: str, seconds: float) -> dict[str, float]:
    """Return milliseconds per agent step of each part of training, on one core."""
    import torch

    from galamp.tools.bench.parts import Parts, block

    torch.set_num_threads(1)
    parts = Parts(env_id, ENVS, network)
    parts.train()  # what is made once
    blocks: list[dict[str, float]] = []
    until_s = time.monotonic() + seconds
    while not blocks or time.monotonic() < until_s:
        blocks.append(block(parts))
    return {name: min(each[name] for each in blocks) for name in blocks[0]}


def tried(seconds: float = SECONDS) -> list[Finding]:
    """Return the findings of a trial."""
    trial = Probing("galamp.tools.doctor.trial", {"seconds": seconds}, timeout_s=TIMEOUT_S)
    try:
        answer = trial.answer()
    except BaseException:
        trial.cancel()
        raise
    try:
        found = decode(Found, json_object(answer.text), LIMITS)
    except DecodeError:
        last = (answer.errors.splitlines() or ["it printed nothing"])[-1]
        how = trial.ending if answer.in_time else f"not done in {TIMEOUT_S:g} s"
        fix = "install torch anew, for this processor and driver"
        return [Finding("PyTorch", f"cannot be used ({how}): {last}", fix, prevents=True)]
    return list(findings_of(found))


def findings_of(found: Found, proc: Path = PROC) -> Iterable[Finding]:
    """Yield the findings of a trial that has answered."""
    build = f"for CUDA {found.cuda}" if found.cuda else "for the CPU"
    yield Finding("PyTorch", f"{found.torch}, {build}")
    yield from (Finding("GPU", name) for name in found.gpus)
    for device, why in found.unusable.items():
        yield Finding("GPU", f"{device} cannot be used", why)
    if not found.gpus and not found.unusable:
        yield _without_gpu(found, proc)
    game = found.env_id.removeprefix("ALE/").removesuffix("-v5")
    if not found.part_ms:
        why = clean(found.failure)
        fix = f"galamp run --env-id {found.env_id} --learners 1 --total-steps 1000 shows more"
        yield Finding("speed", f"{game} cannot be trained: {why}", fix)
        return
    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in found.part_ms.items())
    yield Finding(
        "speed", f"{game}: {found.rate:,.0f} agent steps/s on one core (ms of each: {parts})"
    )


def _without_gpu(found: Found, proc: Path) -> Finding:
    """Return what there is without a GPU: nothing to do, unless a driver is there."""
    try:
        driver = (proc / DRIVER).read_text(errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return Finding("GPU", "none: learners compute on the processors")
    fix = "see that the driver runs (nvidia-smi) and that GPUs are visible (CUDA_VISIBLE_DEVICES)"
    if not found.cuda:
        fix = "install a build of PyTorch for CUDA; bin/setup chooses one by the driver"
    return Finding("GPU", f"PyTorch sees none, though there is a driver: {driver}", fix)
