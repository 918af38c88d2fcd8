"""How much processor time control groups allow, as under `docker run --cpus 2`.

    cpu.max                                every control group --> allowed_processors --> Machine
    cpu.cfs_quota_us, cpu.cfs_period_us    above this process, and its own

Runs in the parent. Such a limit takes no processor away: all of them can be used, and once those
that run at the same time have used up what is allowed, everyone waits for the next period. What is
unreadable or odd says nothing and never raises.
"""

from __future__ import annotations

from pathlib import Path

from galamp.core.machine.memory import PROC, ControlGroup, control_groups, numbers_in


def allowed_processors(proc: Path = PROC) -> float | None:
    """Return the time that may be used per time that passes; None where nothing limits it.

    A limit holds for a control group and all below it, so the least one counts.

    Args:
        proc: where the kernel tells of processes.
    """
    told = (_of_group(group) for chain in control_groups(proc, "cpu") for group in chain)
    return min((each for each in told if each is not None), default=None)


def _of_group(group: ControlGroup) -> float | None:
    names = ("cpu.max",) if group.kind == "cgroup2" else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    match [number for name in names for number in numbers_in(group.folder / name)]:
        case [int(quota), int(period)] if quota and period:
            return quota / period
    return None  # as "max" and -1 are no numbers
