"""`galamp chaos`: a real training under injected faults, and the check that it survives them.

    arguments --> RunConfig, ChaosConfig --> training.train with a callback --> record, report

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galamp.core.arguments import add_flags, settings_from
from galamp.core.config import RunConfig
from galamp.core.errors import EXIT_OK, UserError
from galamp.core.settings import option

if TYPE_CHECKING:
    from galamp.storage.run_folder import RunFolder
    from galamp.supervision.child_failure import ChildFailure
    from galamp.tools.chaos.scenario import ChaosScenario
    from galamp.tools.chaos.second_node import SecondNode
    from galamp.training.train import Outcome

EXIT_BROKEN = 1
"""Exit code for a broken invariant."""

RECORD = "chaos.json"

NONE = "none"
LEFT_OPEN = {
    ".total_steps": 10**12,
    "stop.max_time": NONE,
    "stop.stop_score": NONE,
    "stop.stop_when_flat": NONE,
    "resources.hang_after_s": 3.0,
    "resources.max_restarts": 10**6,
    "gossip.verify_gossip": True,
    "report.checkpoint_every_s": 5.0,
}
"""Settings of the run with other defaults under chaos: `--seconds` gives the length, faults are far
more frequent than on a real machine, and more is checked."""


@dataclass(frozen=True)
class ChaosConfig:
    """Settings of the faults."""

    seconds: float = option(
        120.0,
        "faults for so long; a warm-up before and a calm after come on top",
        unit="s",
        low=1.0,
    )
    faults_every_s: float = option(
        4.0, "usual time between two faults; half to one and a half of it", unit="s", low=0.1
    )
    warm_up_s: float = option(
        6.0, "first this long without faults, to see what is usual", unit="s", low=3.0
    )
    chaos_seed: int = option(1, "seed of the faults: the same come again", low=0, high=2**31 - 1)
    cut: bool = option(
        False,
        "as two machines, both on this one: their link is cut, late, narrow or reset, too, and the "
        "bridge is hit (galamp help faults)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options that `galamp run` does not have."""
    add_flags(parser.add_argument_group("faults"), ChaosConfig)


def chaos_from(args: argparse.Namespace) -> ChaosConfig:
    """Return the settings of the faults, and set the run's open settings.

    Raises:
        UserError: a wrong value.
    """
    for name, value in LEFT_OPEN.items():
        if name not in args:
            setattr(args, name, value)
    return settings_from(args, ChaosConfig)


def left_open(args: argparse.Namespace) -> list[str]:
    """Return the names of the run's settings that `chaos_from` sets."""
    return [name for name in LEFT_OPEN if name not in args]


def check_kept(stored: dict[str, Any], left: list[str], run: Path) -> None:
    """Refuse to change stored settings of a run that the user has not named.

    Args:
        stored: config.json of the run that is resumed.
        left: the settings that were left open.
        run: its folder.

    Raises:
        UserError: the run's settings are not those that chaos needs.
    """
    flags = []
    for name in left:
        section, _, setting = name.rpartition(".")
        values = stored.get(section, {}) if section else stored
        value, flag = LEFT_OPEN[name], "--" + setting.replace("_", "-")
        if values.get(setting) != (None if value == NONE else value):
            flags.append(flag if value is True else f"{flag} {value}")
    if flags:
        raise UserError(
            f"--resume {run}: under chaos the run would have other settings, and keep them: add "
            f"{' '.join(flags)} if it may, or others; a copy of the run leaves it as it is"
        )


def run_chaos(chaos: ChaosConfig, config: RunConfig, resume: RunFolder | None) -> int:
    """Run, and print the report; returns the exit code. The settings are checked before."""
    from galamp.tools.chaos.scenario import ChaosScenario
    from galamp.tools.chaos.second_node import second_node
    from galamp.training.train import train

    with second_node(config) if chaos.cut else nullcontext() as second:
        if second is not None:
            config = second.config
        callback = ChaosScenario(
            chaos.seconds, chaos.warm_up_s, chaos.chaos_seed, chaos.faults_every_s, second
        )
        outcome = train(config, resume=resume, callbacks=[callback])
        found = _conclude(callback, outcome, second)
    _print_report(found, config.report.json, outcome.result.failure)
    return EXIT_BROKEN if not found["held"] else outcome.result.exit_code


def _print_report(found: dict[str, Any], as_json: bool, failure: ChildFailure | None) -> None:
    from galamp.telemetry.display.streams import print_safely
    from galamp.tools.chaos.report import lines

    if failure is not None:
        print_safely(f"galamp: {failure}\n{failure.details}", sys.stderr)
    print_safely(json.dumps(found) if as_json else "\n".join(lines(found)), sys.stdout)
    print_safely("\n", sys.stdout)


def check_survives(config: RunConfig, chaos: ChaosConfig, resumed: bool) -> None:
    """Refuse settings with which a fault is meant to end the run, or that cannot be disturbed so.

    Raises:
        UserError: there are such.
    """
    if config.gossip.synchronous:
        raise UserError(
            "--sync, --max-staleness 0, --method allreduce: in lock-step all learners go back a "
            "few turns when one is lost, and here others have to go on meanwhile: leave it out"
        )
    if chaos.cut:
        from galamp.tools.chaos.second_node import check_alone, check_two

        check_alone(config, resumed)
        check_two(config)
    elif config.cluster.nodes > 1:
        raise UserError(
            "--nodes: faults are drawn for one machine; leave it out, or give --cut instead, which "
            "starts two on this one"
        )
    if not config.resources.max_restarts:
        raise UserError(
            "--max-restarts 0: the first fault would end the run; leave it out, or give more"
        )


def _conclude(
    callback: ChaosScenario, outcome: Outcome, second: SecondNode | None
) -> dict[str, Any]:
    """Check the files that the run has left, and those of the second node; store the record."""
    from galamp.core.disk import finite, replace_json
    from galamp.telemetry.display.streams import warn
    from galamp.tools.chaos.record import conclude, conclude_both, record

    final = conclude(outcome.folder) if outcome.result.exit_code == EXIT_OK else []
    if second is not None and final and callback.breach is None:
        final = [*final, conclude_both(outcome.folder, second)]
    found: dict[str, Any] = finite(record(callback, final, outcome.summary))
    try:
        replace_json(outcome.folder / RECORD, found)
    except OSError as error:  # the report is printed nevertheless
        warn(f"{outcome.folder / RECORD} not written: {error.strerror}")
    return found
