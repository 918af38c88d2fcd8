"""Record of a chaos run as JSON values: the content of `chaos.json`, and of the report.

ChaosScenario, outcome of the run --conclude--> audit, last checkpoint --record--> JSON object
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from galamp.core.errors import CheckpointError, GalampError
from galamp.storage import checkpoint
from galamp.storage.gossip_log import GOSSIP
from galamp.tools.audit.across import crossings
from galamp.tools.audit.audit import audit
from galamp.tools.chaos.injector import InjectedFault
from galamp.tools.chaos.invariants import Certified, CheckpointsVerify, Invariant
from galamp.tools.chaos.link_invariants import OtherWhole
from galamp.tools.chaos.recovery import ENOUGH, WINDOW_S, Span, Throughput, statistics
from galamp.tools.chaos.scenario import ChaosScenario
from galamp.tools.chaos.schedule import (
    BRIDGE,
    LEARNER,
    LINK,
    MACHINE,
    SERVER,
    SIMULATOR,
    Kind,
)
from galamp.tools.chaos.second_node import SecondNode

ROLES = (LEARNER, SIMULATOR, SERVER, BRIDGE, LINK, MACHINE)
RECOVERED_WITHIN_S = 10.0
"""Throughput is promised to recover within this time."""
RECOVERED_GRACE_S = 1.0
"""Throughput counts as undisturbed this long after all targets work again."""


class LastCheckpoint(CheckpointsVerify):
    """The run can be resumed from its last checkpoint."""

    name = "the last checkpoint loads"


def conclude(folder: Path) -> list[Invariant]:
    """Check the files that an ended run has left."""
    last, certified = LastCheckpoint(), Certified()
    try:
        checkpoint.load(checkpoint.find(folder).path)
        last.observe(1, ())
    except CheckpointError as error:
        last.observe(0, (str(error),))
    if not (folder / GOSSIP).is_file():
        return [last]
    certified.observe(*_judged(folder))
    return [certified, last]


def _judged(folder: Path) -> tuple[int, list[str]]:
    """Return how many measurements of a record are certified, and what is wrong with it."""
    found = audit(folder)
    wrong = [f"line {fault.line}: {fault.wrong}" for fault in found.faults]
    wrong += [
        f"line {v.line}: {v.measured:.5g} above {v.certificate:.5g}" for v in found.violations
    ]
    return found.certified, wrong


def _counted(told: dict[str, Any]) -> Iterator[str]:
    """Yield what the summary of a node counts that no fault explains.

    A process that is killed leaves half a vector, which no reader accepts, and half a frame, which
    no port hands on: so kills and cuts have nothing torn or refused.
    """
    gossip = told.get("gossip", {})
    for name, what in (("torn", "torn copies"), ("refused", "messages refused")):
        if gossip.get(name):
            yield f"{gossip[name]} {what}"


def conclude_both(folder: Path, second: SecondNode) -> OtherWhole:
    """End the second node; check its files, and that both records tell of the same vectors."""
    whole = OtherWhole()
    try:
        told = second.end()
        other = Path(told["run_dir"])
        wrong = [f"{told['restarts']} restarts of the second machine"] if told["restarts"] else []
        wrong += [f"second machine, {each}" for each in (*_counted(told), *_judged(other)[1])]
        over = crossings([folder, other])
    except GalampError as error:
        whole.observe(0, [f"second machine: {error}"])
        return whole
    wrong += [
        f"{each.false} vectors that machine {each.receiver} took were not published by machine "
        f"{each.sender}"
        for each in over
        if each.false
    ]
    if not all(each.found for each in over):
        wrong.append("a machine has taken no vector of the other")
    whole.observe(sum(each.found for each in over), wrong)
    return whole


def measure_throughput(throughput: Throughput, injected_faults: Sequence[InjectedFault]) -> None:
    """Set for every fault the throughput before it, and the time until it has recovered."""
    felt = [Span(s.span.start_s, s.span.end_s + RECOVERED_GRACE_S) for s in injected_faults]
    for injected in injected_faults:
        injected.usual = throughput.usual(injected.at_s, felt)
        if injected.usual is not None:
            injected.steps_back_s = throughput.back_s(injected.since_s, injected.usual)


def record(
    chaos: ChaosScenario, final: Sequence[Invariant], summary: dict[str, Any]
) -> dict[str, Any]:
    """Return the whole record."""
    measure_throughput(chaos.throughput, chaos.injected_faults)
    began_s = chaos.began_s or 0.0
    invariants = [each.as_dict() for each in (*chaos.invariants, *final)]
    broken = next((each["broken"] for each in invariants if each["broken"]), None)
    if broken is not None:
        broken = broken | {"at_s": chaos.broken_s - began_s if chaos.breach else None}
    injected = {injected.fault.number for injected in chaos.injected_faults}
    return {
        "seed": chaos.seed,
        "seconds": chaos.seconds,
        "faults_every_s": chaos.every_s,
        "warm_up_s": chaos.warm_up_s,
        "held": broken is None,
        "complete": chaos.complete,
        "broken": broken,
        "schedule": [fault.as_dict() for fault in chaos.faults],
        "faults": [injected.as_dict(began_s) for injected in chaos.injected_faults],
        "not_injected": [f.number for f in chaos.faults if f.number not in injected],
        "kinds": list(_by_kind(chaos.injected_faults)),
        "throughput": _promise(chaos.injected_faults),
        "invariants": invariants,
        "summary": summary,
    }


def overlapping(injected_faults: Sequence[InjectedFault]) -> list[InjectedFault]:
    """Return the faults that overlapped with another one in the same group."""
    pairs = itertools.combinations(injected_faults, 2)
    found = [pair for pair in pairs if pair[0].ranks & pair[1].ranks and _meet(*pair)]
    return [injected for injected in injected_faults if any(injected in pair for pair in found)]


def _meet(one: InjectedFault, other: InjectedFault) -> bool:
    return one.at_s <= other.span.end_s and other.at_s <= one.span.end_s


def _by_kind(injected_faults: Sequence[InjectedFault]) -> Iterator[dict[str, Any]]:
    """Yield a line per kind and role of single faults, one of all of them, one of the overlapping.

    The recovery time of a process that waits for another one, which was hit too, says little.
    """
    others = overlapping(injected_faults)
    alone = [injected for injected in injected_faults if injected not in others]
    for kind, role in itertools.product(Kind, ROLES):
        group = [s for s in alone if (s.fault.kind, s.fault.role) == (kind, role)]
        if group:
            yield _line(kind, role, group)
    yield _line("all", "", alone)
    if others:
        yield _line("overlapping", "", others)


def _line(kind: str, role: str, injected_faults: Sequence[InjectedFault]) -> dict[str, Any]:
    links = [s for s in injected_faults if s.fault.role == LINK and s.noticed_s is not None]
    ends = [*links, *(s for s in injected_faults if s.fault.kind.deadly)]
    return {
        "kind": str(kind),
        "role": role,
        "injected": len(injected_faults),
        "noticed_s": statistics([_minus(s.noticed_s, s.at_s) for s in ends]),
        "works_s": statistics([_minus(s.back_s, s.since_s) for s in injected_faults]),
        "works_after_signal_s": statistics([_minus(s.back_s, s.at_s) for s in injected_faults]),
        "throughput_s": statistics([s.steps_back_s for s in injected_faults]),
    }


def _minus(end_s: float | None, start_s: float) -> float | None:
    return None if end_s is None else end_s - start_s


def _promise(injected_faults: Sequence[InjectedFault]) -> dict[str, Any]:
    """Return how often throughput has recovered as fast as promised."""
    known = [injected for injected in injected_faults if injected.usual is not None]
    soon = [s for s in known if s.steps_back_s is not None and s.steps_back_s <= RECOVERED_WITHIN_S]
    return {
        "share": ENOUGH,
        "window_s": WINDOW_S,
        "within_s": RECOVERED_WITHIN_S,
        "faults": len(known),
        "kept": len(soon),
    }
