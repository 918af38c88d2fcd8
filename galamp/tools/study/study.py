"""All that is known of the study: the rows that count, beside what its files plan.

files of the blocks, results/ --study_of--> Study --decisions--> of H1, H2 and H3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from galamp.tools.study import hypotheses, plan, random_actions, scale, stable_baselines3
from galamp.tools.study.decisions import Decision, decide
from galamp.tools.study.kept import LeftOut, kept, kept_peers
from galamp.tools.study.rows import Cell, Row, read_rows
from galamp.tools.study.scale import Scales
from galamp.tools.study.stable_baselines3 import PeerRun
from galamp.tools.sweep.planned import PlannedRun, digest


class Shape(NamedTuple):
    """What an arm's runs are made of: learners, environments of each, gossip graph and period."""

    learners: int
    num_envs: int
    topology: str
    gossip_every: int


@dataclass(frozen=True)
class Study:
    """All that is known.

    Attributes:
        rows: block -> its rows that count.
        planned: block -> cells of its file.
        scales: game -> its scale.
        peers: runs of others in Pong, each seed once.
        left_out: stored rows that do not count.
        settings: block -> digest of the settings of all its runs.
        shapes: block -> arm -> what its runs are made of.
    """

    rows: Mapping[str, Sequence[Row]]
    planned: Mapping[str, Sequence[Cell]]
    scales: Scales
    peers: Sequence[PeerRun] = ()
    left_out: Sequence[LeftOut] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Mapping[str, Shape]] = field(default_factory=dict)

    def whole(self, block: str, *arms: str) -> bool:
        """Return whether all planned runs of these arms have a row."""
        wanted = {cell for cell in self.planned[block] if cell.arm in arms}
        return bool(wanted) and wanted <= {row.cell for row in self.rows[block]}

    def decisions(self) -> list[Decision]:
        """Return what has become of the hypotheses; without the whole reference H1, H2 are open."""
        whole, scaled = self.whole, self.whole("reference", plan.A2C_16)
        return decide(
            [
                hypotheses.robustness(
                    self.rows["robustness"],
                    self.scales,
                    scaled and whole("robustness", plan.A2C_256, plan.GALA_256),
                ),
                hypotheses.efficiency(
                    self.rows["efficiency"],
                    self.scales,
                    scaled and whole("efficiency", plan.A2C_64, plan.GALA_64),
                ),
                hypotheses.speed(self.rows["pong"], whole("pong", plan.A2C_PONG, plan.GALA_PONG)),
            ]
        )


def study_of(runs: Mapping[str, Sequence[PlannedRun]]) -> Study:
    """Return what is known from the stored rows.

    Args:
        runs: block -> what its file plans.

    Raises:
        UserError: stored rows are damaged.
    """
    rows: dict[str, list[Row]] = {}
    hashes = {name: {cell_of(run): run.hash for run in of} for name, of in runs.items()}
    peers, left_out = kept_peers("pong", stable_baselines3.read())
    for name, block in plan.BLOCKS.items():
        rows[name], out = kept(name, read_rows(block.results), hashes[name])
        left_out += out
    return Study(
        rows=rows,
        planned={name: list(of) for name, of in hashes.items()},
        scales=scale.scales(rows["reference"], random_actions.read()),
        peers=peers,
        left_out=left_out,
        settings={
            name: digest({str(cell): each for cell, each in of.items()})
            for name, of in hashes.items()
        },
        shapes={name: {run.arm: _shape(run) for run in of} for name, of in runs.items()},
    )


def cell_of(run: PlannedRun) -> Cell:
    """Return which run of its block it is."""
    return Cell(run.arm, plan.game_of(run.env_id), run.seed)


def _shape(run: PlannedRun) -> Shape:
    config = run.config
    return Shape(
        config.resources.learners,
        config.environment.num_envs,
        config.gossip.topology if config.gossip.method == plan.GOSSIP else config.gossip.method,
        config.gossip.gossip_every,
    )
