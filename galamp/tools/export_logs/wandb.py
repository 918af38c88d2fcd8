"""A run at Weights & Biases, made from the metrics of a run.

RUN --timed_rows--> rows --WandbRun--> W&B, or a folder for `wandb sync`
"""

from __future__ import annotations

import importlib.util
import secrets
from pathlib import Path

from galamp.core.errors import GalampError, UserError, not_installed
from galamp.core.sanitize import one_line
from galamp.telemetry.sinks.wandb_run import WandbRun
from galamp.tools.export_logs.timed_rows import timed_rows


class WandbError(GalampError):
    """W&B could not take the run."""


def export(run: Path, folder: Path, project: str) -> tuple[int, str]:
    """Give W&B the run's rows; returns their number, and where they are.

    Args:
        run: run folder.
        folder: where W&B makes its folder `wandb`.
        project: its name; empty for that of the run's settings.

    Raises:
        UserError: wandb is not installed, or there are no rows.
        WandbError: it fails.
    """
    if getattr(importlib.util.find_spec("wandb"), "origin", None) is None:
        missing = ModuleNotFoundError("No module named 'wandb'", name="wandb")
        raise not_installed("--wandb", "wandb", missing)
    if next(timed_rows(run), None) is None:
        raise UserError(f"{run}: no metrics yet")
    tracked, rows = WandbRun(run, folder, secrets.token_hex(4), project=project), 0
    try:
        with tracked:
            for time_s, row in timed_rows(run):
                tracked.log(row, time_s)
                rows += 1
            place = tracked.place
    except Exception as error:  # W&B raises what its network and its server raise
        raise WandbError(f"--wandb: {type(error).__name__}: {one_line(str(error))}") from error
    return rows, place
