"""Scores of a random player and of a human, for the charts of one Atari game."""

from __future__ import annotations

from collections.abc import Sequence

from galamp.environments.protocols import SETTINGS as OF_PROTOCOL
from galamp.environments.protocols import AtariProtocol
from galamp.tools.evaluation.references import SOURCE, misfit, reference_for
from galamp.tools.plot.runs import Run


def references(runs: Sequence[Run]) -> tuple[dict[str, float], str]:
    """Return the published scores of the runs' game, and a note; nothing if there are several."""
    games = {run.env_id for run in runs}
    known = reference_for(games.pop()) if len(games) == 1 else None
    if known is None:
        return {}, ""
    unlike = next((text for run in runs if (text := misfit_of(run))), "")
    note = f"random, human: {SOURCE}" + (f"; played otherwise here: {unlike}" if unlike else "")
    return {"random": known.random, "human": known.human}, note


def misfit_of(run: Run) -> str:
    """Return how the run's protocol differs from the published scores' one; empty if it does not.

    Values come from a file, so those of another type are left out of the comparison.
    """
    try:
        chosen = {name: run.settings[name] for name in OF_PROTOCOL}
        steps = run.settings.get("max_episode_steps")
        if steps is not None:
            chosen["max_frames"] = min(chosen["max_frames"], steps * chosen["frame_skip"])
        return misfit(AtariProtocol(name=str(run.settings["protocol"]), **chosen)) or ""
    except (KeyError, TypeError):
        return "an unknown protocol"
