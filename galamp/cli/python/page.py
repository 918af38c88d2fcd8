"""Small pages for notebooks: a table of facts, and a curve as SVG.

    facts, (agent steps, score) points --page--> HTML

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

Curve = tuple[tuple[int, float], ...]
"""(agent steps, score), in the order of the steps."""

WIDTH, HEIGHT, MARGIN = 420, 120, 4
"""Of the curve, in pixels."""


def page(facts: Mapping[str, str], curve: Curve) -> str:
    """Return HTML of facts by name, with the curve below if it has two points."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in facts.items()
    )
    return f"<div><table>{rows}</table>{drawn(curve)}</div>"


def drawn(curve: Curve) -> str:
    """Return a curve as SVG, with its lowest and highest score; empty for fewer than 2 points."""
    if len(curve) < 2:
        return ""
    first, last = curve[0][0], curve[-1][0]
    low, high = min(y for _, y in curve), max(y for _, y in curve)
    wide, tall = (last - first) or 1, (high - low) or 1.0
    points = " ".join(
        f"{MARGIN + (x - first) / wide * (WIDTH - 2 * MARGIN):.1f},"
        f"{HEIGHT - MARGIN - (y - low) / tall * (HEIGHT - 2 * MARGIN):.1f}"
        for x, y in curve
    )
    label = f"score from {low:.2f} to {high:.2f}, agent steps {first:,} to {last:,}"
    return (
        f'<figure style="margin:0"><svg width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{label}"><polyline points="{points}" fill="none" stroke="#1f77b4" '
        f'stroke-width="2"/></svg><figcaption>{label}</figcaption></figure>'
    )
