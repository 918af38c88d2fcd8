"""Event files of a run for TensorBoard, made from its metrics.

RUN --timed_rows--> rows --EventFile--> DIR/events.out.tfevents.<start>
"""

from __future__ import annotations

from pathlib import Path

from galamp.core.errors import UserError, not_installed
from galamp.tools.export_logs.timed_rows import timed_rows


def export(run: Path, folder: Path) -> int:
    """Write the run's rows into one new event file in `folder`; returns their number.

    Raises:
        UserError: tensorboard is not installed, the folder has event files, or cannot be written.
    """
    try:
        from galamp.telemetry.sinks.tensorboard import EventFile
    except ModuleNotFoundError as error:
        raise not_installed("--tensorboard", "tensorboard", error) from error
    _check_free(folder)
    file, rows = EventFile(start=1, from_step=0), 0
    try:
        for time_s, row in timed_rows(run):
            file.write(folder, row, time_s)
            rows += 1
    except OSError as error:
        if file.name:
            (folder / file.name).unlink(missing_ok=True)
        raise UserError(f"{folder}: cannot be written: {error.strerror}; name another") from None
    if not rows:
        raise UserError(f"{run}: no metrics yet")
    return rows


def _check_free(folder: Path) -> None:
    """Refuse a folder with event files: TensorBoard would show both.

    Raises:
        UserError: it has some.
    """
    if folder.is_dir() and next(folder.glob("*tfevents*"), None) is not None:
        raise UserError(
            f"{folder}: has event files, of the run itself or of an earlier export; look at these, "
            "or name another folder with -o"
        )
