"""`galamp.train`: a run from its start to its end, in one call.

    train(...) = Run(...) --start--> snapshots --> on_snapshot, stop --> Result

Runs in a user's program.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galamp.cli.python.result import Result
from galamp.cli.python.run import Run
from galamp.cli.python.words import Value
from galamp.storage.run_status import NotRunningError
from galamp.telemetry.snapshot import Snapshot

POLL_S = 0.2


def train(
    game: str | None = None,
    *,
    env: str | Callable[..., Any] | None = None,
    learners: int | str | None = None,
    total_steps: int | None = None,
    stop: Callable[[Snapshot], object] | None = None,
    on_snapshot: Callable[[Snapshot], object] | None = None,
    run_dir: str | Path | None = None,
    **settings: Value,
) -> Result:
    """Train, and return when the run has ended: by itself, by `stop`, or by Ctrl-C.

    Args:
        game: an Atari game, such as `Breakout`.
        env: instead of it, a Gymnasium id, `package.module:factory`, or such a function.
        learners: actor-learners; `auto` for as many as are fastest.
        total_steps: agent steps after which the run ends.
        stop: called with every snapshot, a few a second; the run saves and ends once it returns
            something true.
        on_snapshot: called with every snapshot before that.
        run_dir: the run's folder, which must be new or empty; by default one in `runs`.
        settings: other ones of `galamp run`, see `Run`.

    Returns:
        how the run ended, its scores, and its folder.

    Raises:
        UserError: a setting is unknown, a value is wrong, or they do not fit this machine.
        GalampError: the run has failed; or `stop` or `on_snapshot` is given, and there is nothing
            to call it with, since the disk of `run_dir` has no sockets.
        KeyboardInterrupt: Ctrl-C; the run has saved, and can be resumed.

    Example:
        >>> result = galamp.train(
        ...     env="CartPole-v1", learners=2, num_envs=4, total_steps=200_000,
        ...     run_dir="runs/cartpole",
        ...     stop=lambda snapshot: snapshot.agent_steps > 2000 and snapshot.score > 5,
        ... )
        >>> result.status, result.agent_steps > 2000
        ('finished', True)
    """
    with Run(
        game, env=env, learners=learners, total_steps=total_steps, run_dir=run_dir, **settings
    ) as run:
        try:
            for snapshot in run.snapshots():
                if on_snapshot is not None:
                    on_snapshot(snapshot)
                if stop is not None and stop(snapshot):
                    break
        except NotRunningError:
            if stop is not None or on_snapshot is not None:
                raise
            while run.running:  # unseen, on a disk without sockets
                time.sleep(POLL_S)
    return run.result
