"""Follower of one start of a run: a process that hands rows of metrics.jsonl to W&B as they come.

    python -m galamp.telemetry.sinks.wandb_follower RUN START PARENT, started by `WandbSink`

It ends on SIGTERM, which also comes when its parent ends: then it hands on what is left, and W&B
finishes. All signals were blocked when it was started, so none is lost before it looks for one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galamp.core.disk import open_plain
from galamp.core.processes.reaper import adopt_orphans, die_with_parent, end_children
from galamp.storage.run_folder import METRICS
from galamp.storage.run_logs import rows_in
from galamp.telemetry.sinks.wandb_run import WandbRun, run_id

POLL_S = 1.0
END_S = 2.0
"""Longest wait for the end of W&B's own processes."""


def follow(run: Path, start: int, log: Callable[[dict[str, Any]], object], waits: Any) -> None:
    """Give `log` each row that start number `start` has written, until a wait says it ended.

    Args:
        run: run folder.
        start: whose rows, from 1.
        log: takes a row.
        waits: waits a moment for new rows; returns whether the last one is there.
    """
    with open_plain(run / METRICS) as file:
        ended = False
        while True:
            for row in rows_in(file):
                if row.get("start") == start and "resumed_from" not in row:
                    log({name: value for name, value in row.items() if name != "start"})
            if ended:
                return
            ended = waits()


def _told_to_end() -> bool:
    return signal.sigtimedwait({signal.SIGTERM}, POLL_S) is not None


def main(run: Path, start: int, parent: int) -> None:
    """Follow one start of the run in `run` until it ends."""
    die_with_parent(parent, signal.SIGTERM)
    adopt_orphans()
    try:
        with WandbRun(run, run, run_id(run)) as tracked:
            follow(run, start, tracked.log, _told_to_end)
    finally:
        end_children(END_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # W&B's threads are not waited for
