"""Model of how a simulator joins a learner's rollouts, is left out, dies, and joins again.

    learner     ticket_row, ticket, sent --> simulator     rows go up for ever; rollout k has rows
    simulator   rows, committed, joined  --> learner       k T to (k + 1) T, in slot k mod 2
    supervisor  alive, incarnation              --> learner

The learner trusts what a simulator wrote from the first row of the rollout that it was invited to
until it leaves it out, and uses that twice: row by row to act, and all of it in the update. What it
uses must be whole, of that very row, and of one incarnation.
"""

from __future__ import annotations

from tests.models.explorer import DONE, Model, World
from tests.models.handshake.learner import LearnerSteps
from tests.models.handshake.simulator import SimulatorSteps
from tests.models.handshake.supervisor import SupervisorSteps
from tests.models.handshake.world import (
    LEARNER,
    SECOND_SIMULATOR,
    SIMULATOR,
    UNWRITTEN,
    Learner,
    Memory,
    Rules,
    Simulator,
    Supervisor,
    cells_of,
)

__all__ = ["Rules", "model"]


def model(rules: Rules) -> Model:
    where = cells_of(rules)
    second = Simulator(DONE if rules.reaped_first else "unborn", incarnation=1)
    processes = (Learner(end=rules.rollouts), Simulator(), Supervisor(), second)
    start = World(Memory((UNWRITTEN,) * len(where)), processes, rules.crashes)
    simulator = SimulatorSteps(rules, where).program()
    supervisor = SupervisorSteps(rules).program()
    programs = [LearnerSteps(rules, where).program(), simulator, supervisor, simulator]
    crashable = {SIMULATOR, SECOND_SIMULATOR}
    crashable |= {LEARNER} if rules.learner_resumes != "never" else set()
    return Model(start, programs, frozenset(crashable), _is_final)


def _is_final(world: World) -> bool:
    return bool(world.processes[LEARNER].at == DONE)
