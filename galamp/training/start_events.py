"""Events at the beginning of an attempt: what was chosen for it, and which command it was.

    Plan, Machine, sys.argv --log_choices--> Recorder.log_event

Runs in the supervisor.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from galamp.core.algorithm_config import lr_in_words
from galamp.core.machine.machine import Machine, lacks_bf16, quota_text
from galamp.core.machine.mps import mps_folder, mps_in_words
from galamp.gossip.topologies.torus import Torus
from galamp.supervision.devices import CPU, left_out
from galamp.supervision.plan import Plan
from galamp.telemetry.recorder import Recorder


def command_line() -> str:
    """Return the command line of this process, `python -m galamp` as `galamp`."""
    name, *words = sys.argv
    program = Path(name)
    if program.name == "__main__.py" and program.parent.name == "galamp":
        name = "galamp"
    return shlex.join([name, *words])


def log_choices(plan: Plan, machine: Machine, recorder: Recorder, *, first: bool) -> None:
    """Log what was chosen; `first`: the attempt is the first one of this command."""
    config = plan.config
    for line in left_out(machine):
        recorder.log_event(line)
    if config.resources.device != CPU and (folder := mps_folder()) is not None:
        recorder.log_event(mps_in_words(folder))
    if machine.throttled:
        recorder.log_event(f"{quota_text(machine)}: what is not set is chosen for {machine.usable}")
    some = "learner" if len(plan.learners) == 1 else "learners"
    recorder.log_event(
        f"{len(plan.learners)} {some} of {config.environment.num_envs} environments on "
        f"{config.resources.device}, learning rate {lr_in_words(config.algorithm)}",
        kind="start" if first else "scale",
        command=command_line() if first else "",
    )
    size = plan.ranks.all
    if config.gossip.topology == "torus" and size > 2 and Torus(size).rows == 1:
        recorder.log_event(
            f"torus of {size} learners: a ring in both directions, for {size} is a prime"
        )
    place = plan.place
    if place is not None:
        where = ", ".join((*place.listen, *place.connect))
        recorder.log_event(f"machine {place.node} of {place.nodes}, by {where}", kind="node")
        if place.plain:
            where = ", ".join(place.plain)
            recorder.log_event(
                f"insecure: whoever is in the network of {where} can read and alter the run",
                kind="warning",
            )
    if config.algorithm.precision == "bf16" and config.resources.device == CPU and lacks_bf16():
        recorder.log_event(
            "--precision bf16: this processor has no units for it; float32 is faster"
        )
