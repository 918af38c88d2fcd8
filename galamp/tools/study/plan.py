"""What was decided before the runs: blocks, games, seeds, rates, scores, hypotheses. Data only.

Rules (hypotheses.py decides by them, and by nothing else):

H1, robustness: with 256 environments, more runs of GALA than of a tuned A2C end above half of what
    a tuned A2C with 16 reaches above random actions. Counted: `final`, of one learner that the seed
    draws. Test: the exact form of Mantel's and Haenszel's, over games.
H2, sample efficiency: with 64 environments, the area under GALA's curve is larger than that under
    a tuned A2C's. Test: permutations of the probability of improvement, within games.
H3, speed: GALA comes to +15 in Pong in less time than A2C. Test: log-rank.

Supported: p after Holm's correction over the three is below 0.05, and the difference is GALA's;
refuted: below 0.05, and the other's; else undecided. A hypothesis whose runs are not all there yet
is open, and counts as one of the three all the same.

Amendments, made before any run of blocks robustness and pong, and after 55 of block efficiency; the
last one after all runs of block robustness:

1. Every arm had taken the greatest of its three learning rates. So each was given a fourth, twice
   that, and the controls with split updates and without gossip four of their own, on the tuning
   seed. Runs of an arm whose rate this changes are trained anew.
2. The reference had the tuning seed among its own; another one takes its place.
3. H3: the log-rank test is by permutation, since its normal approximation calls too much a
   difference where runs are few; so three seeds could never decide, and there are five. Runs end
   once they are at +15, which takes the mean of a whole 100 training episodes. The difference is
   GALA's if more of its runs come there than the test expects, no longer if its median is less; if
   no run comes there, p is 1.
4. A verdict stands only where no run that is missing could change it.
5. H2: where arrangements are drawn, the runs as they are count as one more, so that p is never 0.
6. Of five arms the fourth rate, the greatest, was the best one again. Each arm goes on with twice
   its greatest rate until another one is better.
7. H3, before any run of block pong: the sittings have machines of different speed, so the time to
   +15 is its agent steps over the arm's agent steps per second, median of rounds in which the arms
   take turns on one machine (`bin/study rates`). Runs may go on for twice as long, so that who is
   late comes there, too; who comes there later than the faster arm's last agent step counts as one
   that did not, so that both arms have the same time. A2C's one learner computes on both cores,
   like GALA's two; it had been given one thread.

Rows of runs that 1, 2 and 6 replace are in results/withdrawn.jsonl, which nothing reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from galamp.core.errors import UserError, did_you_mean

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

MINATAR = "galamp.tools.bench.minatar:"
PACKAGE = "minatar==1.0.15"
"""The package with the games; what else it asks for, it needs to draw for people."""
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
"""MinAtar's games, as factories of MINATAR."""
RANDOM_EPISODES = 500
LEVEL = 0.05
SHARE = 0.5
"""Share of the reference's score, above that of random actions, that a run has to end above."""
SCORE_OF_PONG = 15.0

A2C_16, A2C_64, A2C_256 = "a2c-16", "a2c-64", "a2c-256"
GALA_64, GALA_256 = "gala-64", "gala-256"
A2C_PONG, GALA_PONG = "a2c-pong", "gala-pong"
"""Arms that a hypothesis compares; all others are controls, reported beside them."""
GOSSIP, INDEPENDENT = "gossip", "independent"
"""Methods (`--method`) of which rows keep more: the audit, and each learner's own score."""
RATE = "-lr"
"""Stands before the learning rate in the names of the arms of block tuning."""
RATES = {
    "reference": {A2C_16: A2C_16},
    "robustness": {A2C_256: A2C_256, GALA_256: GALA_256},
    "efficiency": {
        A2C_64: A2C_64,
        GALA_64: GALA_64,
        "a2c-split-64": "a2c-split-64",
        "independent-64": "independent-64",
        "gala-sync-64": GALA_64,
    },
    "exploratory": {
        "ring": GALA_64,
        "learners-of-4": A2C_16,
        "learners-of-64": A2C_256,
        "exponential": GALA_64,
        "one-peer-exponential": GALA_64,
        "complete": GALA_64,
        "every-4": GALA_64,
        "every-16": GALA_64,
        "optimizer": GALA_64,
        "target-ball": GALA_64,
        "ball-floor": GALA_64,
    },
}
"""Block -> arm -> the arm of block tuning whose learning rate it takes; other blocks take none."""
PEER_STEPS = 6_000_000
"""Agent steps of another library's run in Pong that does not come to +15: those of galamp's."""

GRID_POINTS = 40
"""Points of a stored curve, at equal distances over a run's agent steps."""
EPISODES = 64
"""Whole games of an evaluation."""
STEPS = 2048
"""Agent steps that are played to see how the loss curves."""


@dataclass(frozen=True)
class Block:
    """Some runs of the study, in one file of `galamp sweep`.

    Attributes:
        name: of it, and of its file.
        about: what it is for.
        sharpness: whether the curvature of the loss is measured after each run.
    """

    name: str
    about: str
    sharpness: bool = False

    @property
    def file(self) -> Path:
        """File of `galamp sweep`."""
        return FOLDER / f"{self.name}.toml"

    @property
    def results(self) -> Path:
        """Rows of the runs that have ended."""
        return RESULTS / f"{self.name}.jsonl"


BLOCKS = {
    block.name: block
    for block in (
        Block("tuning", "learning rates of each method and size; in no result"),
        Block(
            "reference", "a tuned A2C with 16 environments, for the scores to reach; in no result"
        ),
        Block("robustness", "256 environments: A2C and GALA, all games (H1)"),
        Block("efficiency", "64 environments: A2C, GALA, and the controls, three games (H2)"),
        Block(
            "exploratory",
            "graphs, periods, targets of the distance; decides nothing",
            sharpness=True,
        ),
        Block("pong", "time and agent steps to +15 in Pong (H3)"),
        Block("atari", "the paper's six games, beside published scores; decides nothing"),
    )
}


NORMALISED = ("robustness", "efficiency", "exploratory")
"""Blocks whose scores are on the scale of the reference."""


def block_named(name: str) -> Block:
    """Return a block.

    Raises:
        UserError: there is none of that name.
    """
    if name not in BLOCKS:
        raise UserError(
            f"{name}: expected a block, one of {', '.join(BLOCKS)}{did_you_mean(name, BLOCKS)}"
        )
    return BLOCKS[name]


def game_of(env_id: str) -> str:
    """Return an environment's short name."""
    return env_id.removeprefix(MINATAR).removeprefix("ALE/").removesuffix("-v5").lower()
