"""Numbers, durations, external strings and small drawings as terminal text.

Used only by the supervisor's process, for the dashboard and the plain lines. Pure functions: values
go in, strings come out; no clock, no process, no colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from rich.cells import cell_len, set_cell_size

from galamp.telemetry.display.braille import braille

UNKNOWN = "-"
"""Shown where there is no value yet."""


def clip(text: str, width: int) -> str:
    """Cut `text` to `width` cells, between words where one ends in the second half, and add `…`."""
    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    head = set_cell_size(text, width - 1)
    at = head.rfind(" ")
    if not text[len(head) :].startswith(" ") and at > len(head) // 2:
        head = head[:at]
    return head.rstrip(" ,;") + "…"


def clip_path(path: str, width: int) -> str:
    """Cut `path` to `width` cells, keeping its end, from a separator where possible."""
    if cell_len(path) <= width:
        return path
    parts = path.split("/")
    for start in range(1, len(parts)):
        tail = "…/" + "/".join(parts[start:])
        if cell_len(tail) <= width:
            return tail
    return clip(parts[-1], width)


def fit(items: Sequence[str], width: int) -> str:
    """Join `items` with wide or narrow gaps, leaving out the last ones that do not fit."""
    for gap in ("   ", "  "):
        if cell_len(gap.join(items)) <= width:
            return gap.join(items)
    return fit(items[:-1], width) if len(items) > 1 else clip("".join(items), width)


def count(value: float) -> str:
    """Return a readable size: `812`, `9,240`, `57.6k`, `1.24M`, `3.10G`, `1.00T`."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 9_999.5:
        return f"{value:,.0f}"
    for suffix in ("k", "M", "G", "T"):
        value /= 1000
        for limit, digits in ((9.995, 2), (99.95, 1), (999.5, 0)):
            if abs(value) < limit:
                return f"{value:.{digits}f}{suffix}"
    return f"{value:.2g}T"


def score(value: float | None) -> str:
    """Return a mean score: one decimal below 1,000, whole numbers below 1,000,000."""
    if value is None:
        return UNKNOWN
    if abs(value) < 999.95 or not math.isfinite(value):
        return f"{value:.1f}"
    return f"{value:,.0f}" if abs(value) < 999_999.5 else count(value)


def measure(value: float | None, digits: int = 3) -> str:
    """Return a loss or distance with so many significant digits: `0.0123`, `4.57`, `1.2e-05`."""
    if value is None:
        return UNKNOWN
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 99.5:
        return count(value)
    return f"{value:.0e}" if abs(value) < 0.001 else f"{value:#.{digits}g}".rstrip(".")


def one_exponent(
    values: Iterable[float | None],
) -> tuple[str, Callable[[float | None], str]]:
    """Return the exponent of a column of measurements, and what writes its numbers by it.

    The exponent is ` e-3`, say, or nothing for values that are readable without.
    """
    most = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    power = 0 if most == 0 or 0.1 <= most < 999.5 else math.floor(math.log10(most))
    decimals = next((d for d, limit in ((3, 1), (2, 9.995), (1, 99.95)) if most < limit), 0)

    def number(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return UNKNOWN if value is None else str(value)
        return f"{value / 10.0**power:.{2 if power else decimals}f}"

    return (f" e{power:+d}" if power else ""), number


def percent(done: float, total: float) -> str:
    """Return `done` of `total` as `12.4 %`; rounded down, so 100 means all of it."""
    share = 100.0 * done / total if total > 0 else 0.0
    return "100 %" if share >= 100 else f"{math.floor(share * 10) / 10:.1f} %"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: `42 s`, `12 m 05 s`, `1 h 12 m`, `3 d 04 h`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h" if whole < 8.64e7 else ">999 d"


def cells_of(shares: Sequence[float], width: int) -> list[int]:
    """Divide `width` cells among `shares` in proportion; the parts always add up to `width`.

    Every share is within one cell of its exact length. All zero shares give all zero cells.
    """
    sane = [share if math.isfinite(share) and share > 0 else 0.0 for share in shares]
    total = sum(sane)
    if total <= 0:
        return [0] * len(sane)
    ends = [round(width * sum(sane[: i + 1]) / total) for i in range(len(sane))]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


Frame = tuple[float, float, float, float]
"""Values at a chart's left, right, bottom and top edge."""


def line_chart(
    points: Sequence[tuple[float, float]], width: int, height: int, frame: Frame | None = None
) -> list[str]:
    """Draw `points` (x rising) as one line in braille, `height` strings of `width` characters.

    Points that are not finite are left out. Without a `frame`, which holds all points, the first
    and last x are the left and right edge, the smallest and largest y the bottom and top edge; one
    y only is drawn half way up.
    """
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    canvas = np.zeros((4 * height, 2 * width), np.bool_)
    dots = _scale(points, 2 * width - 1, 4 * height - 1, frame)
    for (x0, y0), (x1, y1) in zip(dots, dots[1:] or dots, strict=False):
        length = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(length + 1):
            x, y = x0 + round((x1 - x0) * i / length), y0 + round((y1 - y0) * i / length)
            canvas[y, x] = True
    return braille(canvas)


def _scale(
    points: Sequence[tuple[float, float]], columns: int, rows: int, frame: Frame | None
) -> list[tuple[int, int]]:
    """Return the dot (column, row from the top) of every point on a grid that ends at both."""
    if not points:
        return []
    ys = [y for _, y in points]
    left, right, low, high = frame or (points[0][0], points[-1][0], min(ys), max(ys))
    across, up = right - left or 1.0, high - low
    return [
        (
            round(columns * (x - left) / across),
            rows - round(rows * (y - low) / up) if up > 0 else rows // 2,
        )
        for x, y in points
    ]


def gossip_graph(edges: Mapping[int, tuple[int, ...]], width: int) -> str:
    """Draw the edges: a ring as `0 → 1 → 2 → 0`, anything else as `0→1,3  1→2`.

    Args:
        edges: the out-peers of every learner, by rank.
        width: cells to use; edges that do not fit are omitted and counted.
    """
    senders = {rank: peers for rank, peers in sorted(edges.items()) if peers}
    if not senders:
        return "nobody sends"
    cycle = _cycle(senders)
    apart = sorted(set(edges) - set(senders))
    if cycle:
        alone = f"   alone: {','.join(map(str, apart))}" if apart else ""
        return clip(_ring(cycle, width - cell_len(alone)) + alone, width)
    lists = [f"{rank}→{','.join(map(str, peers))}" for rank, peers in senders.items()]
    for shown in range(len(lists), -1, -1):
        rest = [f"… and {len(lists) - shown} more"] if shown < len(lists) else []
        text = "  ".join(lists[:shown] + rest)
        if cell_len(text) <= width:
            return text
    return clip(text, width)


def _cycle(senders: dict[int, tuple[int, ...]]) -> list[int]:
    """Return the ranks in the order of the ring that they form; empty if they form none."""
    path = [min(senders)]
    while len(path) <= len(senders):
        peers = senders.get(path[-1], ())
        if len(peers) != 1:
            return []
        if peers[0] == path[0]:
            return path if len(path) == len(senders) else []
        path.append(peers[0])
    return []


def _ring(cycle: list[int], width: int) -> str:
    names = [*map(str, cycle), str(cycle[0])]
    whole = " → ".join(names)
    if cell_len(whole) <= width:
        return whole
    for head in range(len(names) - 3, 0, -1):
        short = " → ".join([*names[:head], "…", *names[-2:]])
        if cell_len(short) <= width:
            return short
    return clip(f"ring of {len(cycle)}", width)
