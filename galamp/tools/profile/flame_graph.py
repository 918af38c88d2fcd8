"""Flame graph of a role: an SVG without scripts, of the same stacks in all of its processes.

    stacks --flame_graph--> bytes of an SVG: the loop below, its innermost frames on top

A frame's width is its share of the samples; what waits is grey. Pointing at a frame names it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape

from galamp.tools.profile.stacks import Samples, Stack, is_idle

WIDTH, ROW, MARGIN = 1200.0, 18, 10
LEAST = 0.0008
"""Share of the whole below which a frame is left out: it would be less than a pixel."""
CHARACTER = 6.6
"""Width of a character of the labels."""


@dataclass
class _Node:
    """A frame, in one place of the tree: how often it was seen, and while waiting."""

    count: int = 0
    idle: int = 0
    callees: dict[str, _Node] = field(default_factory=dict)


_Box = tuple[str, _Node, int, float]
"""Frame, its place in the tree, its level from below, and its left edge as a share of the whole."""


def flame_graph(title: str, all_samples: Iterable[Samples]) -> bytes:
    """Return the flame graph of several processes together."""
    merged: Counter[Stack] = sum((each.stacks for each in all_samples), Counter())
    root = _tree(merged)
    boxes = list(_boxes(root, 0.0, 0, root.count))
    depth = 1 + max((level for _, _, level, _ in boxes), default=0)
    height = (depth + 1) * ROW + 3 * MARGIN
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {WIDTH + 2 * MARGIN:.0f} {height}" font-family="monospace" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="{ROW}" font-size="13">{escape(title)}</text>',
    ]
    for name, node, level, left in boxes:
        lines.append(_box(name, node, left, height - MARGIN - (level + 1) * ROW, root.count))
    return "\n".join([*lines, "</svg>", ""]).encode()


def _tree(stacks: Counter[Stack]) -> _Node:
    root = _Node()
    for stack, count in stacks.items():
        idle, node = is_idle(stack), root
        for frame in ("", *stack):
            node = node.callees.setdefault(frame, _Node()) if frame else root
            node.count += count
            node.idle += count if idle else 0
    return root


def _boxes(node: _Node, left: float, level: int, whole: int) -> Iterator[_Box]:
    """Yield the callees of a node, and theirs, that are wide enough to be seen."""
    for name, callee in sorted(node.callees.items()):
        if callee.count >= LEAST * whole:
            yield name, callee, level, left
            yield from _boxes(callee, left, level + 1, whole)
        left += callee.count / whole


def _box(name: str, node: _Node, left: float, y: int, whole: int) -> str:
    wide, x = WIDTH * node.count / whole, MARGIN + WIDTH * left
    room = int((wide - 6) / CHARACTER)
    label = name if len(name) <= room else f"{name[: room - 1]}…" if room > 4 else ""
    told = f"{name}: {node.count / whole:.1%} of {whole:,} samples"
    place = f'x="{x:.2f}" y="{y}" width="{max(wide - 0.5, 0.3):.2f}" height="{ROW - 1}"'
    return (
        f'<g><title>{escape(told)}</title><rect {place} rx="2" fill="{_colour(name, node)}"/>'
        f'<text x="{x + 3:.2f}" y="{y + 13}">{escape(label)}</text></g>'
    )


def _colour(name: str, node: _Node) -> str:
    """Return grey for what mostly waits, else a warm colour by the frame's file."""
    if 2 * node.idle > node.count:
        return "#d5d9dd"
    place = zlib.crc32(name.partition("(")[2].partition(":")[0].encode())
    return f"hsl({15 + place % 40},{70 + place // 64 % 20}%,{68 + place // 4096 % 10}%)"
