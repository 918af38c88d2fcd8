"""Report of `galamp chaos`: the record as text of at most 100 columns.

    record --lines--> text

Pure: values in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from galamp.core.sanitize import clean
from galamp.telemetry.display.console import plain_table, text_lines
from galamp.telemetry.display.text import UNKNOWN
from galamp.tools.chaos.schedule import BRIDGE, LINK, MACHINE

KEYS = ("p50", "p99", "max")
WIDTH = 100
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
    share = f"speed at {found['throughput']['share']:.0%}"
    noticed, works = ("noticed\nmedian",), ("works again\nmedian", "\np99", "\nmax")
    headings = ("fault", "role", "n", *noticed, *works, f"{share}\nmedian", "\np99", "\nmax")
    table = plain_table((*headings, "\nnot"), text=[0, 1])
    for each in found["kinds"]:
        table.add_row(*_cells(each))
    yield from text_lines(table, WIDTH)
    yield from _notes(found)


def _cells(each: dict[str, Any]) -> list[str]:
    works, steps = each["works_s"], each["throughput_s"]
    times = [each["noticed_s"]["p50"], *(works[key] for key in KEYS), *(steps[key] for key in KEYS)]
    label = LABELS.get(each["kind"], each["kind"])
    unknown = str(steps["unknown"] or "")
    return [label, each["role"], str(each["injected"]), *map(_s, times), unknown]


def _notes(found: dict[str, Any]) -> Iterator[str]:
    yield "Seconds; speed: until agent steps/s were back; not: never, before the end, or not known."
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
    if any(each["role"] in (LINK, MACHINE) for each in found["kinds"]):
        yield "Link, machine: noticed as that machine counts as gone; works again, from its end."
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
    table = plain_table(("invariant", "checks", "broken"))
    for each in invariants:
        remark = f"\n  {each['remark']}" if each["remark"] else ""
        broken = "BROKEN" if each["broken"] else "0"
        table.add_row(each["name"] + remark, f"{each['checks']:,}", broken)
    yield from text_lines(table, WIDTH)


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
            alone = fault["role"] in (BRIDGE, LINK, MACHINE)
            target = (
                fault["role"] if alone else f"{fault['role']} {fault['rank']}.{fault['worker']}"
            )
            yield f"   {fault['injected_s']:8.2f} s  {fault['kind']:5} {target}"
    yield f"record    {clean(summary['run_dir'])}/chaos.json"


def _s(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds:.2f}"
