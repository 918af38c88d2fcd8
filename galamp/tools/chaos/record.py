"""What came of it all, as plain values: what `chaos.json` holds, and what the report shows.

Chaos, outcome of the run --conclude--> audit, last checkpoint --record--> one JSON object
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from galamp.core.errors import CheckpointError
from galamp.storage import checkpoint
from galamp.storage.gossip_log import GOSSIP
from galamp.tools.audit.audit import audit
from galamp.tools.chaos.injector import Strike
from galamp.tools.chaos.invariants import Certified, Invariant, Saved
from galamp.tools.chaos.recovery import ENOUGH, WINDOW_S, Span, Throughput, statistics
from galamp.tools.chaos.scenario import Chaos
from galamp.tools.chaos.schedule import LEARNER, SERVER, SIMULATOR, Kind

WITHIN_S = 10.0
"""Throughput is promised to be back so soon."""
SETTLE_S = 1.0
"""Throughput counts as undisturbed so long after all work again."""


class Last(Saved):
    """What the run has left behind at its end can be gone on from."""

    name = "the last checkpoint loads"


def conclude(folder: Path) -> list[Invariant]:
    """Look at what a run that has ended has left on the disk."""
    last, certified = Last(), Certified()
    try:
        checkpoint.load(checkpoint.find(folder).path)
        last.look(1, ())
    except CheckpointError as error:
        last.look(0, (str(error),))
    if not (folder / GOSSIP).is_file():
        return [last]
    found = audit(folder)
    wrong = [f"line {fault.line}: {fault.wrong}" for fault in found.faults]
    wrong += [
        f"line {v.line}: {v.measured:.5g} above {v.certificate:.5g}" for v in found.violations
    ]
    certified.look(found.certified, wrong)
    return [certified, last]


def measure_throughput(throughput: Throughput, strikes: Sequence[Strike]) -> None:
    """Note for every fault the throughput before it, and after how long it was back."""
    felt = [Span(s.span.begin_s, s.span.end_s + SETTLE_S) for s in strikes]
    for strike in strikes:
        strike.usual = throughput.usual(strike.at_s, felt)
        if strike.usual is not None:
            strike.steps_back_s = throughput.back_s(strike.since_s, strike.usual)


def record(chaos: Chaos, final: Sequence[Invariant], summary: dict[str, Any]) -> dict[str, Any]:
    """Return all that there is to tell."""
    measure_throughput(chaos.throughput, chaos.strikes)
    began_s = chaos.began_s or 0.0
    invariants = [each.as_dict() for each in (*chaos.invariants, *final)]
    broken = next((each["broken"] for each in invariants if each["broken"]), None)
    if broken is not None:
        broken = broken | {"at_s": chaos.broken_s - began_s if chaos.breach else None}
    injected = {strike.fault.number for strike in chaos.strikes}
    return {
        "seed": chaos.seed,
        "seconds": chaos.seconds,
        "faults_every_s": chaos.every_s,
        "warm_up_s": chaos.warm_up_s,
        "held": broken is None,
        "complete": chaos.complete,
        "broken": broken,
        "schedule": [fault.as_dict() for fault in chaos.faults],
        "faults": [strike.as_dict(began_s) for strike in chaos.strikes],
        "not_injected": [f.number for f in chaos.faults if f.number not in injected],
        "kinds": list(_by_kind(chaos.strikes)),
        "throughput": _promise(chaos.strikes),
        "invariants": invariants,
        "summary": summary,
    }


def overlapping(strikes: Sequence[Strike]) -> list[Strike]:
    """Return those that were not over in their group when it was hit again, or before."""
    pairs = itertools.combinations(strikes, 2)
    found = [pair for pair in pairs if pair[0].ranks & pair[1].ranks and _meet(*pair)]
    return [strike for strike in strikes if any(strike in pair for pair in found)]


def _meet(one: Strike, other: Strike) -> bool:
    return one.at_s <= other.span.end_s and other.at_s <= one.span.end_s


def _by_kind(strikes: Sequence[Strike]) -> Iterator[dict[str, Any]]:
    """Yield a line per kind and role of those that came alone, one of all these, one of the others.

    How long a process takes that waits for another one, which was hit too, says little of it.
    """
    others = overlapping(strikes)
    alone = [strike for strike in strikes if strike not in others]
    for kind, role in itertools.product(Kind, (LEARNER, SIMULATOR, SERVER)):
        group = [s for s in alone if (s.fault.kind, s.fault.role) == (kind, role)]
        if group:
            yield _line(kind, role, group)
    yield _line("all", "", alone)
    if others:
        yield _line("overlapping", "", others)


def _line(kind: str, role: str, strikes: Sequence[Strike]) -> dict[str, Any]:
    ends = [s for s in strikes if s.fault.kind.deadly]
    return {
        "kind": str(kind),
        "role": role,
        "injected": len(strikes),
        "noticed_s": statistics([_minus(s.noticed_s, s.at_s) for s in ends]),
        "works_s": statistics([_minus(s.back_s, s.since_s) for s in strikes]),
        "works_after_signal_s": statistics([_minus(s.back_s, s.at_s) for s in strikes]),
        "throughput_s": statistics([s.steps_back_s for s in strikes]),
    }


def _minus(end_s: float | None, begin_s: float) -> float | None:
    return None if end_s is None else end_s - begin_s


def _promise(strikes: Sequence[Strike]) -> dict[str, Any]:
    """Return how often throughput was back as soon as promised."""
    known = [strike for strike in strikes if strike.usual is not None]
    soon = [s for s in known if s.steps_back_s is not None and s.steps_back_s <= WITHIN_S]
    return {
        "share": ENOUGH,
        "window_s": WINDOW_S,
        "within_s": WITHIN_S,
        "faults": len(known),
        "kept": len(soon),
    }
