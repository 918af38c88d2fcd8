"""A run at Weights & Biases: how it is opened, and how a row of metrics is written to it.

    RUN/config.json --WandbRun--> wandb.init: online where there is a key, else offline in `wandb/`
    row --WandbRun.log--> scalars over global_step

Runs in the process that follows a run, and in `galamp export-logs`. What W&B raises is passed on.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import re
import secrets
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from galamp.core.disk import read_limited, write_new
from galamp.core.errors import UserError
from galamp.storage.run_folder import CONFIG, read_json
from galamp.telemetry.sinks.base import Row
from galamp.telemetry.sinks.scalars import STEP, scalars, step_of

PROJECT = "galamp"
HOST = "https://api.wandb.ai"
ID_FILE = "galamp-run-id"
INIT_TIMEOUT_S = 60.0


class WandbRun:
    """One run at W&B, open for as long as it is entered."""

    def __init__(self, run: Path, folder: Path, identity: str, *, project: str = "") -> None:
        """Prepare it.

        Args:
            run: run folder, whose name and settings it has.
            folder: where W&B makes its folder `wandb`.
            identity: its id; the starts of a run go on with the same.
            project: name of the project (default: that of the run's settings).
        """
        self._run, self._folder, self._identity = run, folder, identity
        self._config: dict[str, Any] = {}
        with contextlib.suppress(UserError):
            self._config = read_json(run / CONFIG)
        self._project = project or _project_in(self._config)
        self._opened: Any = None

    def __enter__(self) -> Self:
        """Open it; where W&B cannot be reached, offline."""
        wanted = mode()
        try:
            self._open(wanted)
        except Exception as error:  # W&B raises what its network raises
            if wanted != "online":
                raise
            print(f"offline, as W&B cannot be reached: {error}", flush=True)
            self._open("offline")
        return self

    def __exit__(self, *error: object) -> None:
        """Finish it: what is left is written, and sent where it is online.

        Only W&B's own process writes, and it may not be done when `finish` returns.
        """
        import wandb

        self._opened.finish()
        wandb.teardown()

    @property
    def place(self) -> str:
        """Its address, or where it is offline the folder that `wandb sync` takes."""
        return str(self._opened.url or Path(self._opened.dir).parent)

    def log(self, row: Row, time_s: float | None = None) -> None:
        """Write the scalars of a row, which was made at `time_s` (default: now)."""
        values: dict[str, float] = {STEP: step_of(row), **dict(scalars(row))}
        if time_s is not None:
            values["_timestamp"] = time_s
        self._opened.log(values)

    def _open(self, wanted: str) -> None:
        import wandb

        self._opened = wandb.init(
            project=self._project,
            name=self._run.resolve().name,
            id=self._identity,
            resume="allow" if wanted == "online" else None,
            dir=str(self._folder),
            config=self._config,
            mode=wanted,
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=INIT_TIMEOUT_S, disable_code=True,
                disable_git=True, x_disable_stats=True,
            ),
        )  # fmt: skip
        self._opened.define_metric(STEP)
        self._opened.define_metric("*", step_metric=STEP)


def mode() -> str:
    """Return how W&B is used: WANDB_MODE, else `online` where there is a key, else `offline`."""
    return os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")


def has_key() -> bool:
    """Return whether there is an API key, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or HOST).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def run_id(run: Path) -> str:
    """Return the id of a run at W&B, the same for all of its starts; the first one makes it up."""
    path = run / "wandb" / ID_FILE
    with contextlib.suppress(OSError):
        found = read_limited(path, 100).decode(errors="replace").strip()
        if re.fullmatch(r"[0-9a-z]{8}", found):
            return found
    made = secrets.token_hex(4)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_new(path, f"{made}\n".encode())
    return made


def _project_in(config: dict[str, Any]) -> str:
    report = config.get("report")
    found = report.get("wandb_project") if isinstance(report, dict) else None
    return found if isinstance(found, str) and found else PROJECT
