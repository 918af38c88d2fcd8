"""System view: the load of every core, memory, GPUs and power. Pure.

Snapshot.system --system_view--> lines of coloured text
"""

from __future__ import annotations

import textwrap

from rich.text import Text

from galamp.core.sanitize import clean
from galamp.telemetry.display import panels
from galamp.telemetry.display.panels import pair, titled
from galamp.telemetry.display.text import UNKNOWN, clip, measure
from galamp.telemetry.snapshot import GpuReading, Snapshot

CORE_WIDTH = 26
"""Columns of one core's bar with its number and figure."""
WIDTH = 60
"""Most columns of a name and its figure."""


def system_view(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Draw the machine on `height` lines."""
    seen = snapshot.system
    if seen.run_share is None:
        return [*titled("system", width), Text("not sampled yet", "dim")]
    lines = [*titled("processors that the run may use", width)]
    lines += _cores(snapshot, width, max(1, height - 12))
    others = UNKNOWN if seen.others_share is None else f"{seen.others_share:.0%}"
    room = min(width, WIDTH)
    lines.append(pair("all of them: taken by the run", f"{seen.run_share:.0%}", room))
    lines.append(pair("all of them: taken by other programs", others, room))
    if seen.memory_bytes is not None:
        lines.append(pair("memory of the run", f"{panels.gib(seen.memory_bytes)} GiB", room))
    if seen.free_bytes is not None:
        lines.append(pair("memory left for it", f"{panels.gib(seen.free_bytes)} GiB", room))
    lines += [Text(), *titled("GPUs that learners use", width), *_gpus(snapshot, width)]
    if seen.joules_per_frame is not None:
        per = "emulator frame" if snapshot.frames_per_step > 1 else "agent step"
        lines.append(pair(f"GPU energy per {per}", f"{measure(seen.joules_per_frame)} J", room))
    return lines


def _cores(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    """Return the cores side by side, column by column; those beyond the rows are counted."""
    seen = snapshot.system
    across = max(1, width // CORE_WIDTH)
    most = across * rows
    cells = [_core(n, load) for n, load in zip(seen.cores, seen.loads, strict=False)]
    shown = cells[:most] if len(cells) <= most else cells[: most - across]
    lines = []
    for first in range(0, len(shown), across):
        line = Text()
        for cell in shown[first : first + across]:
            line.append_text(cell)
        lines.append(line)
    if len(shown) < len(cells):
        rest = seen.loads[len(shown) :]
        mean = sum(rest) / len(rest)
        lines.append(Text(f"… and {len(rest)} more, {mean:.0%} busy on average", "dim"))
    return lines


def _core(number: int, load: float) -> Text:
    bar = CORE_WIDTH - 12
    full = round(bar * min(1.0, max(0.0, load)))
    line = Text(f"{number:>3} ", "dim").append("█" * full, "cyan")
    line.append("─" * (bar - full), "bright_black")
    return line.append(f" {100 * load:3.0f} %  ", "default")


def _gpus(snapshot: Snapshot, width: int) -> list[Text]:
    seen = snapshot.system
    lines = [Text(clip(_gpu(gpu), width)) for gpu in seen.gpus]
    # In whole words: it may hold a command.
    note = textwrap.wrap(clean(seen.gpu_note), max(1, width), break_on_hyphens=False)
    lines += [Text(clip(part, width), "dim") for part in note]
    return lines or [Text("none", "dim")]


def _gpu(gpu: GpuReading) -> str:
    facts = [f"{clean(gpu.device):<7}", clean(gpu.name)]
    if gpu.utilisation is not None:
        facts.append(f"{gpu.utilisation:4.0%} busy")
    if gpu.memory_bytes is not None:
        whole = (
            "" if gpu.memory_total_bytes is None else f" of {panels.gib(gpu.memory_total_bytes)}"
        )
        facts.append(f"{panels.gib(gpu.memory_bytes)}{whole} GiB")
    if gpu.watts is not None:
        facts.append(f"{gpu.watts:.0f} W")
    return "   ".join(filter(None, facts))
