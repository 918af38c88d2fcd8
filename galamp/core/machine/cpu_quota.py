"""CPU quota: the processor time that control groups allow, as under `docker run --cpus 2`.

    cpu.max                                every control group --> allowed_processors --> Machine
    cpu.cfs_quota_us, cpu.cfs_period_us    above this process, and its own

Runs in the parent. A quota removes no processor: a process can use all of them, but when the quota
of a period is used up, all its processes wait for the next period. Files that are unreadable or
malformed count as no limit, and never raise.
"""

from __future__ import annotations

from pathlib import Path

from galamp.core.machine.memory import PROC, ControlGroup, control_groups, numbers_in


def allowed_processors(proc: Path = PROC) -> float | None:
    """Return the processor time that is allowed per second, in seconds; None without a limit.

    A limit applies to a control group and all groups below it, so the smallest one counts.

    Args:
        proc: mount point of procfs.
    """
    found = (_of_group(group) for chain in control_groups(proc, "cpu") for group in chain)
    return min((each for each in found if each is not None), default=None)


def _of_group(group: ControlGroup) -> float | None:
    names = ("cpu.max",) if group.kind == "cgroup2" else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    match [number for name in names for number in numbers_in(group.folder / name)]:
        case [int(quota), int(period)] if quota and period:
            return quota / period
    return None  # "max" and -1 do not parse as numbers: no limit
