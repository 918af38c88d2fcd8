"""The user's own code that a run's config names, as flags that name it again.

config.json --own_code_flags--> " --env-id my:make", for `eval` and such, and for `run --resume`
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

OWN_CODE = {
    ("environment", "env_id"): "--env-id",
    ("environment", "wrapper"): "--wrapper",
    ("model", "network"): "--network",
    ("algorithm", "algorithm"): "--algorithm",
    ("report", "sinks"): "--sinks",
}
"""Settings that may name a module of the user's, which is imported only if it is named again."""
FOR_EVAL = ("--env-id", "--wrapper", "--network")


def own_code_flags(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the flags that name code of the user's again, each after a space.

    For commands that play a checkpoint of a run with this config.json, and for `run --resume`.
    """
    own = _own_code(config)
    some = [(flag, name) for flag, name in own if flag in FOR_EVAL]
    for_eval, for_resume = (
        "".join(f" {flag} {shlex.quote(name)}" for flag, name in named) for named in (some, own)
    )
    return for_eval, for_resume


def _own_code(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the flags and values that name code of the user's."""
    found = []
    for (section, name), flag in OWN_CODE.items():
        values = config.get(section)
        value = values.get(name) if isinstance(values, dict) else None
        several = value if isinstance(value, list) else [value]
        found += [(flag, each) for each in several if isinstance(each, str) and ":" in each]
    return found
