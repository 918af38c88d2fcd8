"""What `galamp chaos` says at its end: the record as text of 100 columns at most.

    record --lines--> text

Pure: values in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from galamp.display.text import UNKNOWN, clean

LABELS = {"overlapping": "several at once", "STOP": "STOP, CONT", "HANG": "STOP, never CONT"}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the report."""
    yield from _faults(found)
    yield ""
    yield from _invariants(found["invariants"])
    yield ""
    yield from _verdict(found)


def _faults(found: dict[str, Any]) -> Iterator[str]:
    """Yield the table of what was survived, and how fast."""
    share = f"{found['throughput']['share']:.0%}"
    yield f"{'':41}noticed          works again       throughput at {share}"
    yield (
        f"{'fault':18}{'role':11}{'n':>4}{'median':>10} s"
        f"{'median':>10}{'p99':>7}{'max':>7} s{'median':>8}{'p99':>7}{'max':>7} s"
    )
    for each in found["kinds"]:
        yield _line(each)
    yield from _notes(found)


def _line(each: dict[str, Any]) -> str:
    works, steps = each["works_s"], each["throughput_s"]
    label = LABELS.get(each["kind"], each["kind"])
    lost = works["unknown"] + steps["unknown"]
    return (
        f"{label:18}{each['role']:11}{each['injected']:>4}{_s(each['noticed_s']['p50']):>10}  "
        + "".join(f"{_s(works[key]):>{w}}" for key, w in (("p50", 10), ("p99", 7), ("max", 7)))
        + "  "
        + "".join(f"{_s(steps[key]):>{w}}" for key, w in (("p50", 8), ("p99", 7), ("max", 7)))
        + (f"  {lost} unknown" if lost else "")
    )


def _notes(found: dict[str, Any]) -> Iterator[str]:
    hangs = [each["works_after_signal_s"] for each in found["kinds"] if each["kind"] == "HANG"]
    if any(hang["count"] for hang in hangs):
        longest_s = max(hang["max"] for hang in hangs if hang["count"])
        yield (
            "Who is never told to go on is timed from when the limit has ended it; "
            f"from the signal: at most {longest_s:.1f} s."
        )
    if any(each["kind"] == "overlapping" for each in found["kinds"]):
        yield "Several at once: of a learner and its simulators, hit again before all of them worked."
    if found["not_injected"]:
        yield f"Not injected, for their targets were not there: {len(found['not_injected'])}"
    promise = found["throughput"]
    yield (
        f"Throughput was back at {promise['share']:.0%} within {promise['within_s']:g} s after "
        f"{promise['kept']} of {promise['faults']} faults."
    )


def _invariants(invariants: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'invariant':44}{'checks':>10}{'broken':>8}"
    for each in invariants:
        broken = "BROKEN" if each["broken"] else "0"
        yield f"{each['name']:44}{each['checks']:>10,}{broken:>8}".rstrip()
        if each["remark"]:
            yield f"   {each['remark']}"


def _verdict(found: dict[str, Any]) -> Iterator[str]:
    """Yield how it went; where it went wrong, all that is needed to see it again."""
    summary, broken = found["summary"], found["broken"]
    count, seed = len(found["faults"]), found["seed"]
    if broken is None:
        held = (
            "everything held" if found["complete"] else "the run ended early; until then all held"
        )
        yield (
            f"{held}: {count} faults, {summary['restarts']} restarts, "
            f"{summary['agent_steps']:,} agent steps; seed {seed}"
        )
    else:
        when = "at the end" if broken["at_s"] is None else f"{broken['at_s']:.1f} s after the start"
        yield f"BROKEN {when} of the faults, seed {seed}: {broken['name']}"
        yield f"   expected  {clean(broken['expected'])}"
        yield f"   found     {clean(broken['found'])}"
        yield "   so far"
        for fault in found["faults"]:
            target = f"{fault['role']} {fault['rank']}.{fault['worker']}"
            yield f"   {fault['injected_s']:8.2f} s  {fault['kind']:5} {target}"
    yield f"record    {clean(summary['run_dir'])}/chaos.json"


def _s(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds:.2f}"
