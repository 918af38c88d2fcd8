"""Runs as `plot` and `compare` see them: folder, settings and history; nothing is written.

    RUN/config.json --read_settings--> settings by name
    RUN/metrics.jsonl --RunHistory--> columns; RUN/eval.jsonl --read_evaluations--> dots
    RUNs --load--> Run, ... with labels that tell them apart

A module that a stored config names is never imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galamp.core.algorithm_config import algorithm_in
from galamp.core.config import RunConfig
from galamp.core.errors import UserError
from galamp.core.older_configs import up_to_date
from galamp.core.sanitize import clean
from galamp.core.settings import settings
from galamp.environments.protocols import PROTOCOLS
from galamp.environments.protocols import SETTINGS as OF_PROTOCOL
from galamp.storage.eval_log import Evaluation, read_evaluations
from galamp.storage.locks import owner_in
from galamp.storage.run_folder import CONFIG, METRICS, read_json
from galamp.storage.run_history import RunHistory
from galamp.storage.run_status import summary_of

ATARI = "ALE/"
NO_SETTINGS = frozenset({"report", "stop", "evaluation", "resolved"})
"""Sections of config.json that say how a run is shown, when it ends, and what came out."""


@dataclass
class Run:
    """One run.

    Attributes:
        path: its folder.
        label: a short name that no other run of the same command has.
        settings: setting -> value, with the defaults of what an older galamp did not store.
        history: its metrics.
    """

    path: Path
    label: str
    settings: dict[str, Any]
    history: RunHistory

    @property
    def env_id(self) -> str:
        """Environment."""
        return str(self.settings["env_id"])

    @property
    def seed(self) -> Any:
        """Seed; text where the file has no whole number."""
        seed = self.settings["seed"]
        return seed if type(seed) is int else str(seed)

    def evaluations(self) -> list[Evaluation]:
        """Return the evaluations made while it trained, so far."""
        return read_evaluations(self.path)

    def is_running(self) -> bool:
        """Return whether it still trains; of another machine's, whether it may."""
        owner = owner_in(self.path)
        if owner is None or owner.here:
            return owner is not None and owner.lives
        return summary_of(self.path) is None

    def is_here(self) -> bool:
        """Return whether this machine can tell whether it trains."""
        owner = owner_in(self.path)
        return owner is None or owner.here


def load(paths: Iterable[Path]) -> list[Run]:
    """Return the runs in these folders, each once.

    Raises:
        UserError: one is no run folder, or its config is damaged.
    """
    folders = list({os.path.realpath(path): path for path in paths}.values())
    return [
        Run(path, label, read_settings(path), RunHistory(path / METRICS))
        for path, label in zip(folders, _labels(folders), strict=True)
    ]


def read_settings(run: Path) -> dict[str, Any]:
    """Return the settings of a run by name.

    Raises:
        UserError: it is no run folder, or its config is damaged.
    """
    if not os.path.isfile(run / CONFIG):
        raise UserError(f"{run}: not a run folder (it has no {CONFIG})")
    values = settings_in(read_json(run / CONFIG))
    if values is None:
        raise UserError(f"{run / CONFIG}: damaged: expected a name as environment.env_id")
    return values


def settings_in(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings by name in the JSON form of a config, with what a protocol means.

    None if the environment has no name.
    """
    stored = up_to_date(config)
    values: dict[str, Any] = {
        each.name: each.default
        for part in (RunConfig(), algorithm_in(stored, asked=""))
        for each in settings(part)
        if each.section not in NO_SETTINGS
    }
    for key, value in stored.items():
        if key in NO_SETTINGS:
            continue
        values |= value if isinstance(value, dict) else {key: value}
    if not isinstance(values["env_id"], str):
        return None
    protocol = PROTOCOLS.get(str(values["protocol"]))
    if values["env_id"].startswith(ATARI) and protocol is not None:
        unset = [name for name in OF_PROTOCOL if values.get(name) is None]
        values |= {name: getattr(protocol, name) for name in unset}
    return values


def _labels(paths: list[Path]) -> list[str]:
    """Return the folders' names, or their paths where two names are the same."""
    names = [clean(path.name or str(path)) for path in paths]
    if len(set(names)) == len(names):
        return names
    return [clean(str(path)) for path in paths]
