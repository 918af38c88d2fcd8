"""Former names of settings and choices, and what was done before there were some: for older runs.

    config.json, checkpoint --up_to_date--> the same as written now --config.from_dict--> RunConfig
    --method a2c --renamed--> --method single

Values are foreign, and checked later: only former names are replaced here.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

FORMERLY: dict[tuple[str, str], tuple[str, Any]] = {
    ("environment", "fire_reset"): ("ALE/", True),
    ("environment", "observation_reading"): ("", "dtype"),
}
"""What was done before there was a setting: (section, name) -> (environments' ids begin so, value).

A stored section always names all of its settings; one that lacks such a setting is older than it.
"""

RENAMED: dict[tuple[str, str], str] = {
    ("resources", "batches"): "env_splits",
    ("algorithm", "anneal_lr"): "lr_schedule",
}
"""Settings that had another name: (section, former name) -> name."""

SWITCHES = {("algorithm", "anneal_lr")}
"""Those of them that were true or false."""

RENAMED_CHOICES: dict[tuple[str, str], dict[str | bool, str]] = {
    ("gossip", "method"): {"gala": "gossip", "a2c": "single", "data-parallel": "allreduce"},
    ("algorithm", "lr_schedule"): {True: "linear", False: "constant"},
}
"""Choices that had another name: (section, name of the setting) -> former choice -> choice."""


def renamed(section: str, name: str, value: Any) -> tuple[str, Any]:
    """Return a setting's name and value as they are called now."""
    name = RENAMED.get((section, name), name)
    choices = RENAMED_CHOICES.get((section, name), {})
    return name, choices.get(value, value) if isinstance(value, str | bool) else value


def up_to_date(values: dict[str, Any], known: Container[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return the JSON form of a config as it would be written now, had it been an older galamp's.

    Settings that are `known`, by section and name, keep their name: an algorithm of the user's may
    have one that was galamp's once. A setting that is there under both of its names keeps both, and
    so is refused as unknown.
    """
    env_id = _section(values, "environment").get("env_id")
    result = {
        key: _renamed_in(key, section, known) if isinstance(section, dict) else section
        for key, section in values.items()
    }
    for (section, name), (start, value) in FORMERLY.items():
        if isinstance(env_id, str) and env_id.startswith(start) and section in result:
            result[section].setdefault(name, value)
    return result


def _renamed_in(
    section: str, values: dict[str, Any], known: Container[tuple[str, str]]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for former, value in values.items():
        name = former
        if (section, former) not in known or (section, former) not in RENAMED:
            name, value = renamed(section, former, value)
        result[former if name in values else name] = value
    return result


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return section if isinstance(section, dict) else {}
