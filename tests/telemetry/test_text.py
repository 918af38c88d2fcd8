"""Charts dot by dot, graphs, and numbers as users read them."""

from __future__ import annotations

import pytest

from galamp.telemetry.display import text as words


def lit(chart: list[str]) -> set[tuple[int, int]]:
    """Return the dots of a braille chart as (column, row from the top), by the Unicode table."""
    order = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
    return {
        (2 * x + order[bit][0], 4 * y + order[bit][1])
        for y, line in enumerate(chart)
        for x, char in enumerate(line)
        for bit in range(8)
        if char != " " and ord(char) - 0x2800 >> bit & 1
    }


def test_a_rising_line_runs_from_corner_to_corner_without_gaps() -> None:
    dots = lit(words.line_chart([(0, 0.0), (10, 5.0)], 10, 5))
    assert dots == {(x, 19 - x) for x in range(20)}
    assert lit(words.line_chart([(0, 5.0), (10, 0.0)], 10, 5)) == {(x, x) for x in range(20)}


def test_a_step_up_is_joined_by_a_vertical_stroke() -> None:
    dots = lit(words.line_chart([(0, 0.0), (9, 0.0), (10, 1.0), (19, 1.0)], 10, 2))
    assert dots == {(x, 7) for x in range(10)} | {(x, 0) for x in range(10, 20)} | {
        (9, y) for y in range(4, 8)
    } | {(10, y) for y in range(4)}


@pytest.mark.parametrize(
    "points", [[(5, 2.0)], [(0, 2.0), (10, 2.0)], [(0, 2.0), (10, float("nan"))]]
)
def test_a_single_score_is_drawn_half_way_up(points: list[tuple[float, float]]) -> None:
    dots = lit(words.line_chart(points, 10, 4))
    assert {y for _, y in dots} == {7}
    assert {x for x, _ in dots} == (
        {0} if len(points) == 1 or points[1][1] != 2.0 else set(range(20))
    )


def test_gossip_graphs() -> None:
    ring = {rank: ((rank + 1) % 4,) for rank in range(4)}
    assert words.gossip_graph(ring, 40) == "0 → 1 → 2 → 3 → 0"
    long = {rank: ((rank + 1) % 64,) for rank in range(64)}
    assert words.gossip_graph(long, 33) == "0 → 1 → 2 → 3 → 4 → … → 63 → 0"
    assert words.gossip_graph({0: (2,), 1: (), 2: (0,)}, 40) == "0 → 2 → 0   alone: 1"
    assert words.gossip_graph({0: (1, 3), 1: (2,)}, 40) == "0→1,3  1→2"
    assert words.gossip_graph({0: (1,), 1: (0,), 2: (3,), 3: (2,)}, 40) == "0→1  1→0  2→3  3→2"
    assert words.gossip_graph({0: (1,), 1: (2,), 2: (1,)}, 40) == "0→1  1→2  2→1"
    mesh = {rank: tuple(set(range(9)) - {rank}) for rank in range(9)}
    assert words.gossip_graph(mesh, 40) == "0→1,2,3,4,5,6,7,8  … and 8 more"
    assert words.gossip_graph({0: ()}, 40) == "nobody sends"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (9_999.4, "9,999"),
        (9_999.5, "10.0k"),
        (57_600, "57.6k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (1_240_000, "1.24M"),
        (-20_700, "-20.7k"),
        (3.1e9, "3.10G"),
    ],
)
def test_counts(value: float, shown: str) -> None:
    assert words.count(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (float("inf"), "-"),
        (59.9, "59 s"),
        (725, "12 m 05 s"),
        (4320, "1 h 12 m"),
        (3 * 86_400 + 4 * 3600, "3 d 04 h"),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert words.duration(seconds) == shown


def test_percentages_reach_100_only_at_the_end() -> None:
    assert words.percent(9_999_999, 10_000_000) == "99.9 %"
    assert words.percent(10_000_000, 10_000_000) == "100 %"
    assert words.percent(0, 0) == "0.0 %"


def test_shares_fill_the_bar_exactly() -> None:
    for width in range(40):
        cells = words.cells_of([0.41, 0.14, 0.31, 0.04, 0.1], width)
        assert sum(cells) == width
        for cell, share in zip(cells, [0.41, 0.14, 0.31, 0.04, 0.1], strict=True):
            assert abs(cell - share * width) <= 1
    assert words.cells_of([0.0, float("nan"), -1.0], 10) == [0, 0, 0]


def test_text_is_cut_between_words_and_paths_at_their_head() -> None:
    assert words.clip("no sticky actions, 30 no-ops", 20) == "no sticky actions…"
    assert words.clip("short", 5) == "short"
    assert words.clip("日本語日本語", 7) == "日本語…"
    assert words.clip_path("/home/someone/runs/a__b", 12) == "…/runs/a__b"
