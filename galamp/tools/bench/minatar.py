"""MinAtar (Young and Tian 2019): small Atari-like games, for tasks of `bin/bench learning`.

Runs in simulators, as `--env-id galamp.tools.bench.minatar:breakout`. The games are of the package
minatar, which is under the GPL and no part of galamp: `pip install --no-deps minatar` brings it.
"""

from __future__ import annotations

import importlib
import logging
from functools import partial
from typing import Any

import gymnasium

from galamp.core.pip_commands import pip_install


def _game(name: str) -> gymnasium.Env[Any, Any]:
    """Return a game: bool [10, 10, C] observations, the actions that it needs, sticky by 0.1.

    Raises:
        ImportError: minatar is not installed.
    """
    logging.getLogger().addFilter(_is_no_notice_of_colours)
    try:
        games = importlib.import_module("minatar.gym")
    except ImportError as error:
        raise ImportError(
            f"MinAtar's games need minatar ({error}): {pip_install('--no-deps', 'minatar')}"
        ) from None
    made: gymnasium.Env[Any, Any] = games.BaseEnv(name, use_minimal_action_set=True)
    return made


def _is_no_notice_of_colours(record: logging.LogRecord) -> bool:
    """Whether a message is not the one of minatar without seaborn, which draws for people."""
    return not record.getMessage().startswith("Cannot import")


asterix, breakout, freeway, seaquest, space_invaders = (
    partial(_game, name)
    for name in ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
)
