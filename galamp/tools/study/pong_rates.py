"""Speed of Pong's arms, measured in turns on one machine: what the times of H3 rest on.

    first run of each arm --measure, in turns--> ArmRate of each --> results/pong-rates.jsonl

The runs of block pong are trained in several sittings, on machines of different speed, beside other
programs or alone. So seconds of one run say little beside those of another; agent steps do, over
what each arm makes of them per second where both take turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from galamp.core.decode import decode
from galamp.core.disk import read_limited, replace_file
from galamp.core.errors import UserError
from galamp.core.json_values import DecodeError, json_object
from galamp.tools.study import plan
from galamp.tools.study.rows import LIMITS, MAX_BYTES
from galamp.tools.sweep.planned import PlannedRun

FILE = plan.RESULTS / "pong-rates.jsonl"
ROUNDS = 5


@dataclass(frozen=True)
class ArmRate:
    """Rates of one arm.

    Attributes:
        arm: its name.
        hash: digest of the settings of the run that was measured.
        per_s: agent steps per second over all learners, one of each round.
        machine: processor, cores, versions.
        commit: of the checkout.
    """

    arm: str
    hash: str
    per_s: tuple[float, ...]
    machine: str
    commit: str

    @property
    def median(self) -> float:
        """Median agent steps per second."""
        return median(self.per_s)


def first_runs(runs: Iterable[PlannedRun]) -> dict[str, PlannedRun]:
    """Return the run of each arm that is measured: its first."""
    found: dict[str, PlannedRun] = {}
    for run in runs:
        found.setdefault(run.arm, run)
    return found


def measure(
    runs: Iterable[PlannedRun],
    rate_of: Callable[[PlannedRun], float],
    machine: str,
    commit: str,
    rounds: int = ROUNDS,
) -> list[ArmRate]:
    """Measure each arm once in every round.

    Args:
        runs: of the block.
        rate_of: measures the agent steps per second of a run.
        machine: where.
        commit: of the checkout.
        rounds: how many.
    """
    of = first_runs(runs)
    found: dict[str, list[float]] = {arm: [] for arm in of}
    for _ in range(rounds):
        for arm, run in of.items():
            found[arm].append(rate_of(run))
    return [ArmRate(arm, run.hash, tuple(found[arm]), machine, commit) for arm, run in of.items()]


def current(rates: Iterable[ArmRate], runs: Iterable[PlannedRun]) -> dict[str, float]:
    """Return the median rate of each arm; none unless all were measured with their settings of now.

    Rates of different sittings cannot be held against each other.
    """
    hashes = {arm: run.hash for arm, run in first_runs(runs).items()}
    found = {rate.arm: rate.median for rate in rates if hashes.get(rate.arm) == rate.hash}
    return found if found.keys() == hashes.keys() else {}


def write(rates: Iterable[ArmRate], path: Path | None = None) -> None:
    """Keep the rates, in place of those that were kept.

    Raises:
        OSError: the disk refuses it.
    """
    lines = (json.dumps(asdict(rate)) + "\n" for rate in rates)
    path = path or FILE
    path.parent.mkdir(exist_ok=True)
    replace_file(path, "".join(lines).encode())


def read(path: Path | None = None) -> list[ArmRate]:
    """Return the kept rates, none if there is no file.

    Raises:
        UserError: it cannot be read, a line is damaged, or not all are of one call.
    """
    path = path or FILE
    try:
        lines = read_limited(path, MAX_BYTES).decode().splitlines()
        found = [decode(ArmRate, json_object(line), LIMITS) for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, DecodeError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    for rate in found:
        if not rate.per_s or min(rate.per_s) <= 0:
            raise UserError(f"{path}: damaged: {rate.arm}: expected rates above 0")
    calls = {(rate.machine, rate.commit, len(rate.per_s)) for rate in found}
    if len(calls) > 1 or len({rate.arm for rate in found}) < len(found):
        raise UserError(f"{path}: damaged: expected each arm once, all measured in one call")
    return found
