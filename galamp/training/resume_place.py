"""Place of a resumed run among machines: none of its agent steps may count twice.

    checkpoint: place, agent steps of the others --check_place--> a UserError, or the same place

A machine counts on from its own learners' agent steps, and hears those of the others from them. So
a run goes on in the place that it had, or alone, with the agent steps of all. Once it has gone on
alone it holds the others' agent steps as its own, which they would count as well. Pure.
"""

from __future__ import annotations

from galamp.core.errors import UserError
from galamp.core.nodes import Ranks
from galamp.core.settings import shown
from galamp.supervision.plan import Plan
from galamp.telemetry.recorder import MACHINES, STEPS_ELSEWHERE
from galamp.training.resume_point import ResumePoint


def check_place(resume_point: ResumePoint, plan: Plan) -> None:
    """Check that a run can go on in the place that it has now.

    Raises:
        UserError: agent steps would count twice.
    """
    if plan.place is None:
        return
    checkpoint, run = resume_point.checkpoint, f"--resume {shown(str(resume_point.folder))}"
    noted, elsewhere = (checkpoint.progress.get(each) for each in (MACHINES, STEPS_ELSEWHERE))
    now, lanes = plan.ranks, len(checkpoint.learners)
    if noted:
        was = Ranks(*noted)
    elif elsewhere:  # of a galamp that did not note the place
        was = Ranks(now.node, 1 + len(elsewhere) // lanes, lanes)
    else:
        return  # it was always on one machine, whose agent steps nobody else has
    if not elsewhere:
        raise UserError(
            f"{run}: has gone on alone, with the agent steps of all {was.nodes} machines, which "
            "they would count once more; it goes on with --nodes 1 only"
        )
    if was != now:
        raise UserError(
            f"{run}: was {_told(was)}, and would be {_told(now)}, where agent steps would count "
            "twice; resume it as it was, or alone with --nodes 1"
        )


def _told(ranks: Ranks) -> str:
    learners = "1 learner" if ranks.lanes == 1 else f"{ranks.lanes} learners"
    return f"machine {ranks.node} of {ranks.nodes} with {learners}"
