"""Report of `galamp chaos`: the record as text of at most 100 columns.

    record --lines--> text

Pure: values in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from galamp.core.sanitize import clean
from galamp.telemetry.display.text import UNKNOWN

KEYS, WIDTHS = ("p50", "p99", "max"), (10, 10, 7, 7, 10, 7, 7)
LABELS = {"overlapping": "several at once", "STOP": "STOP, CONT", "HANG": "STOP, never CONT"}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the report."""
    yield from _faults(found)
    yield ""
    yield from _invariants(found["invariants"])
    yield ""
    yield from _verdict(found)


def _faults(found: dict[str, Any]) -> Iterator[str]:
    """Yield the table of survived faults and recovery times."""
    share = f"throughput at {found['throughput']['share']:.0%}"
    yield f"{'':32}{'noticed':>10}{'works again':>20}{share:>29}"
    yield (
        f"{'fault':17}{'role':11}{'n':>4}{'median':>10}"
        f"{'median':>10}{'p99':>7}{'max':>7}{'median':>10}{'p99':>7}{'max':>7}{'not':>5}"
    )
    for each in found["kinds"]:
        yield _line(each)
    yield from _notes(found)


def _line(each: dict[str, Any]) -> str:
    works, steps = each["works_s"], each["throughput_s"]
    times = [each["noticed_s"]["p50"], *(works[key] for key in KEYS), *(steps[key] for key in KEYS)]
    label = LABELS.get(each["kind"], each["kind"])
    return (
        f"{label:17}{each['role']:11}{each['injected']:>4}"
        + "".join(f"{_s(time):>{w}}" for time, w in zip(times, WIDTHS, strict=True))
        + f"{steps['unknown'] or '':>5}"
    ).rstrip()


def _notes(found: dict[str, Any]) -> Iterator[str]:
    yield "Seconds; not: throughput was not back before the end, or never known."
    missing = sum(fault["works_after_s"] is None for fault in found["faults"])
    if missing:
        yield f"The targets of {missing} faults did not work again before the end."
    hangs = [each["works_after_signal_s"] for each in found["kinds"] if each["kind"] == "HANG"]
    if any(hang["count"] for hang in hangs):
        longest_s = max(hang["max"] for hang in hangs if hang["count"])
        yield (
            "A process never continued is timed from its end by the limit; "
            f"from the signal: at most {longest_s:.1f} s."
        )
    if any(each["kind"] == "overlapping" for each in found["kinds"]):
        yield "Several at once: of a learner and its simulators, hit again before all worked again."
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
    """Yield the verdict; for a failure, all that is needed to reproduce it."""
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
