"""Run folders with a known curve, written by the very code that a run writes them with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from galamp.core.config import RunConfig, to_dict
from galamp.core.settings import settings
from galamp.storage.run_folder import RunFolder
from galamp.storage.run_logs import MetricsLog
from galamp.telemetry.recorder import metrics_row
from tests.support.snapshots import busy

STEPS_PER_ROW, SECONDS_PER_ROW = 1000, 36.0
FRAMES_PER_STEP = 4


def config_with(**known: Any) -> RunConfig:
    """Return the default config with some settings changed, by name."""
    config = RunConfig()
    for setting in settings(config):
        if setting.name in known:
            change = {setting.name: known.pop(setting.name)}
            section = getattr(config, setting.section) if setting.section else config
            changed = dataclasses.replace(section, **change)
            config = (
                dataclasses.replace(config, **{setting.section: changed})
                if setting.section
                else changed
            )
    assert not known
    return config


def finished_run(
    path: Path, scores: Sequence[float | None], *, learners: int = 2, **known: Any
) -> Path:
    """Write a run whose row i, from 1, is of i * 1,000 agent steps and i * 36 s."""
    folder = RunFolder.create(path.parent, str(path), "ALE/Pong-v5", "", 1, datetime.now())
    folder.write_config(to_dict(config_with(env_id=known.pop("env_id", "CartPole-v1"), **known)))
    log = MetricsLog(folder.metrics, 1, 0, lambda text: None)
    write_rows(log, scores, learners=learners)
    folder.close()
    return path


def write_rows(
    log: MetricsLog,
    scores: Sequence[float | None],
    *,
    first: int = 1,
    learners: int = 2,
    restarts: Sequence[int] = (),
) -> None:
    """Add a row per score, the first of them number `first`; `restarts` gives theirs."""
    for number, score in enumerate(scores):
        snapshot = busy(
            learners,
            agent_steps=(first + number) * STEPS_PER_ROW,
            elapsed_s=(first + number) * SECONDS_PER_ROW,
            frames_per_step=FRAMES_PER_STEP,
            mean_return=score,
            restarts=restarts[number] if restarts else 0,
        )
        log.append(metrics_row(snapshot, 0.0))
