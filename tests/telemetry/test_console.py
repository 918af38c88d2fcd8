"""Tables as text: aligned, within the page, and nothing of a user's taken for markup."""

from __future__ import annotations

import pytest

from galamp.telemetry.display.console import plain_grid, plain_table, text_lines


def test_numbers_stand_on_the_right_and_text_on_the_left() -> None:
    table = plain_table(("name", "steps/s", "whose"), text=[0, 2])
    table.add_row("ring", "9", "both")
    table.add_row("a", "12,345", "run")
    assert text_lines(table) == [
        " name  steps/s  whose",
        " ────────────────────",
        " ring        9  both",
        " a      12,345  run",
    ]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_what_is_too_wide_is_folded_and_not_cut(width: int) -> None:
    table = plain_table(("name", "value"))
    table.add_row("x" * 70, "7" * 30)
    lines = text_lines(table, width)
    assert max(map(len, lines)) <= width
    assert sum(line.count("x") for line in lines) == 70
    assert sum(line.count("7") for line in lines) == 30


def test_a_grid_keeps_its_widths_and_wraps_the_last_column_below_itself() -> None:
    grid = plain_grid(8, None)
    grid.add_row("beta", "the second largest singular value")
    assert text_lines(grid, 30) == ["beta     the second largest", "         singular value"]


def test_markup_and_emoji_stay_as_they_are() -> None:
    table = plain_table(("[bold]name[/]",))
    table.add_row("[red]:smile:[/red] 3.5")
    assert text_lines(table)[-1] == " [red]:smile:[/red] 3.5"
