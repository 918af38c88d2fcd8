"""Names of metrics: as a user gives them, and as a run's history has them.

--metric NAME --find--> column of RunHistory, or one line that lists the names
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from galamp.core.errors import UserError, did_you_mean
from galamp.core.settings import shown
from galamp.storage.run_history import FORMER, FRAMES, RESTARTS, START, STEP, WALL_S
from galamp.storage.run_logs import RETURN
from galamp.telemetry.display import quantities

SCORE = RETURN
AXIS_COLUMNS = (STEP, FRAMES, WALL_S, START)
"""Columns that are axes, and the number of the start."""

ALIASES = {"score": SCORE, "length": "charts/episodic_length", "speed": "charts/SPS", **FORMER}
TITLES = {
    SCORE: "mean score of the last 100 episodes",
    "charts/episodic_length": "mean length of the last 100 episodes (agent steps)",
    "charts/SPS": "agent steps per second",
    "charts/episodes": "episodes finished",
    RESTARTS: "processes restarted since the start",
    "gossip/consensus_distance": f"{quantities.CONSENSUS_DISTANCE} (L2 norm)",
    "gossip/pairwise_distance": f"{quantities.PAIRWISE_DISTANCE} (L2 norm)",
    "gossip/certificate": f"{quantities.CERTIFICATE} of the distance (L2 norm)",
    "gossip/certificate_ratio": quantities.CERTIFICATE_RATIO,
    "gossip/radius": f"{quantities.RADIUS} (L2 norm)",
    "gossip/gradient_correlation": quantities.GRADIENT_CORRELATION,
}
"""Heading of a chart; a metric without one is its own."""

PER_LEARNER = {"gossip/consensus_distance": "distance"}
"""What learners call a metric whose name for all of them ends otherwise."""

_LEARNER = re.compile(r"learner(\d+)/(.+)")


def find(word: str, names: Sequence[str]) -> str:
    """Return the metric that `word` names: in full, by its last part, or by an alias.

    Raises:
        UserError: none, or several.
    """
    if word in ALIASES or word in names:
        return ALIASES.get(word, word)
    common = [n for n in names if not _LEARNER.fullmatch(n) and n not in AXIS_COLUMNS]
    ends = [name for name in common if name.rpartition("/")[2] == word]
    if len(ends) == 1:
        return ends[0]
    own = sorted({match[2] for name in names if (match := _LEARNER.fullmatch(name))})
    if own:
        common.append(f"learner<r>/ with {', '.join(own)}")
    raise UserError(
        f"--metric {shown(word)}: expected {', '.join([*ALIASES, *common])}"
        f"{did_you_mean(word, [*ALIASES, *common])}"
    )


def of_learners(names: Sequence[str], metric: str) -> list[tuple[int, str]]:
    """Return (rank, column) of the same metric of each learner.

    Raises:
        UserError: it is not kept per learner.
    """
    wanted = PER_LEARNER.get(metric, metric.rpartition("/")[2])
    matches = [match for name in names if (match := _LEARNER.fullmatch(name))]
    found = sorted((int(match[1]), match[0]) for match in matches if match[2] == wanted)
    if matches and not found:
        own = ", ".join(sorted({match[2] for match in matches}))
        raise UserError(
            f"--per-learner: {metric} is not recorded per learner; expected a --metric of {own}"
        )
    return found
