"""Digest of all settings that change what is learned, those among them that are defaults.

    PlannedRun's config, as this galamp completes it --of_config--> digest
    RUN/config.json, as the run had it --of_folder--> digest --difference--> words

A row's hash is of what its run was given. Were a default changed, the hash would stay, though runs
trained before and after could not be compared: the digest here would not. What follows the machine,
and how a run is shown, is left out, as where `galamp compare` makes groups.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from galamp.core.config import RunConfig, to_dict
from galamp.supervision.plan import with_method
from galamp.tools.plot.groups import OF_THE_MACHINE
from galamp.tools.plot.runs import read_settings, settings_in
from galamp.tools.study.rows import Row
from galamp.tools.sweep.planned import digest


def of_config(config: RunConfig) -> str:
    """Return the digest of a run that has this config, which gives the number of learners."""
    complete, learners = with_method(config, config.resources.learners)
    resources = replace(complete.resources, learners=learners)
    return _digest(settings_in(to_dict(replace(complete, resources=resources))) or {})


def of_folder(folder: Path) -> str:
    """Return the digest of the run in a folder.

    Raises:
        UserError: its config is damaged.
    """
    return _digest(read_settings(folder))


def difference(row: Row, config: RunConfig) -> str:
    """Return what has changed since a run of this config made a row; empty if nothing has.

    Older rows do not tell.
    """
    if not row.resolved or row.resolved == of_config(config):
        return ""
    return (
        "the file's settings mean something else now: a default has changed, or there is a new "
        f"one, since {row.commit or 'an unknown commit'}"
    )


def _digest(settings: dict[str, Any]) -> str:
    return digest({name: v for name, v in settings.items() if name not in OF_THE_MACHINE})
