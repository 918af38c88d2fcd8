"""All that is known of the study: the rows that count, beside what its files plan.

files of the blocks, results/ --study_of--> Study --decisions--> of H1, H2 and H3

A hypothesis is decided on whole blocks only: all runs of its arms and of the scale, all that were
to choose their learning rates, and a scale for every game. A run that is missing could change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from galamp.tools.study import (
    hypotheses,
    plan,
    pong_rates,
    random_actions,
    resolved,
    scale,
    stable_baselines3,
    tuning,
)
from galamp.tools.study.decisions import OPEN, Decision, Outcome, decide
from galamp.tools.study.kept import RowNote, kept, kept_peers, unkept_rates
from galamp.tools.study.rows import Cell, Row, read_rows
from galamp.tools.study.scale import Scales
from galamp.tools.study.stable_baselines3 import PeerRun
from galamp.tools.sweep.planned import PlannedRun, digest

WAITS = "which it becomes depends, by Holm's correction, on the hypotheses whose runs are missing"


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
        rates: block -> arm -> the learning rate that its file has.
        other_defaults: rows that count, though defaults have changed since.
        pong_rates: arm of block pong -> agent steps per second, measured in turns.
    """

    rows: Mapping[str, Sequence[Row]]
    planned: Mapping[str, Sequence[Cell]]
    scales: Scales
    peers: Sequence[PeerRun] = ()
    left_out: Sequence[RowNote] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Mapping[str, Shape]] = field(default_factory=dict)
    rates: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    other_defaults: Sequence[RowNote] = ()
    pong_rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, float]:
        """Learning rates of the tuned arms of which no run is missing."""
        return tuning.chosen(self.rows["tuning"], self.planned.get("tuning", ()))

    @property
    def untried(self) -> dict[str, tuple[int, int]]:
        """Tuned arms of which runs are missing: how many, and of how many."""
        found = tuning.missing(self.rows["tuning"], self.planned.get("tuning", ()))
        return {arm: counts for arm, counts in found.items() if counts[0]}

    def lacks(self, block: str, *arms: str) -> Iterator[str]:
        """Yield what is missing for these arms of a block to be decided on, in words."""
        wanted = {cell for cell in self.planned[block] if cell.arm in arms}
        left = wanted - {row.cell for row in self.rows[block]}
        if left or not wanted:
            yield f"{block}: {len(left)} of {len(wanted)} runs still to come"
        if block in plan.NORMALISED:
            for game in sorted({cell.game for cell in wanted} - self.scales.keys()):
                yield f"{game}: no score of random actions, or of the reference"
        chosen, untried = self.chosen, self.untried
        for arm in arms if block in plan.RATES else ():
            tuned, rate = plan.RATES[block][arm], self.rates.get(block, {}).get(arm)
            if tuned in untried:
                yield to_be_tried(tuned, *untried[tuned])
            elif tuned not in chosen:
                yield f"{tuned}: no tuning runs"
            elif rate != chosen[tuned]:
                yield misfit(arm, rate, chosen[tuned])
        if block == "pong" and not set(arms) <= self.pong_rates.keys():
            yield "pong: agent steps per second of the arms still to be measured (bin/study rates)"

    def decisions(self) -> list[Decision]:
        """Return what has become of the hypotheses; of open ones, what they lack."""
        rows, of = self.rows, self.scales
        scale_lacks = [*self.lacks("reference", plan.A2C_16)]
        robustness = [*scale_lacks, *self.lacks("robustness", plan.A2C_256, plan.GALA_256)]
        efficiency = [*scale_lacks, *self.lacks("efficiency", plan.A2C_64, plan.GALA_64)]
        speed = [*self.lacks("pong", plan.A2C_PONG, plan.GALA_PONG)]
        decisions = decide(
            [
                _told(hypotheses.robustness(rows["robustness"], of, not robustness), robustness),
                _told(hypotheses.efficiency(rows["efficiency"], of, not efficiency), efficiency),
                _told(hypotheses.speed(rows["pong"], self.pong_rates, not speed), speed),
            ]
        )
        return [
            replace(each, test=_told(each.test, [WAITS]))
            if each.test.p is not None and each.verdict == OPEN
            else each
            for each in decisions
        ]


def _told(test: Outcome, lacks: Sequence[str]) -> Outcome:
    """Return an outcome whose words hold what it lacks, each once."""
    return replace(test, found="; ".join([test.found, *dict.fromkeys(lacks)]))


def to_be_tried(arm: str, count: int, every: int) -> str:
    """Return that the learning rate of a tuned arm is not chosen yet, in words."""
    return f"{arm}: {count} of {every} tuning runs {'is' if count == 1 else 'are'} still to come"


def misfit(arm: str, rate: float | None, chosen: float) -> str:
    """Return that an arm has another learning rate than it should, in words."""
    return f"{arm}: learning rate {rate}, but tuning chose {chosen:g}"


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
    rates, first = pong_rates.read(), pong_rates.first_runs(runs["pong"])
    left_out += unkept_rates("pong", rates, {arm: run.hash for arm, run in first.items()})
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
        rates={
            name: {run.arm: run.config.algorithm.learning_rate for run in of}
            for name, of in runs.items()
        },
        other_defaults=[*_of_other_defaults(runs, rows)],
        pong_rates=pong_rates.current(rates, runs["pong"]),
    )


def _of_other_defaults(
    runs: Mapping[str, Sequence[PlannedRun]], rows: Mapping[str, Sequence[Row]]
) -> Iterator[RowNote]:
    """Yield the rows that would come of other settings now, though their files are as they were."""
    for name, of in runs.items():
        planned = {cell_of(run): run.config for run in of}
        for row in rows[name]:
            if why := resolved.difference(row, planned[row.cell]):
                yield RowNote(name, str(row.cell), why)


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
