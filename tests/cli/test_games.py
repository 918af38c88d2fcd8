"""`galamp games`: names in a pipe; on a terminal actions and known scores, in columns."""

from __future__ import annotations

import os
import sys

import pytest

from galamp.cli.games import GAP, described, in_columns
from galamp.cli.main import main
from galamp.environments.names import list_games


def test_a_game_is_described_by_its_actions_and_published_scores() -> None:
    assert described("Breakout").split() == ["Breakout", "4", "1.7", "30.5"]
    assert described("YarsRevenge").split() == ["YarsRevenge", "18", "3,093", "54,577"]
    assert described("Adventure").split() == ["Adventure", "18", "-", "-"]


@pytest.mark.parametrize(("width", "blocks"), [(20, 1), (80, 2), (120, 3)])
def test_columns_fill_the_width(width: int, blocks: int) -> None:
    games = list_games()
    heading, *lines = in_columns(games, width)
    assert heading.count("human") == blocks
    assert max(map(len, lines)) == len(heading) <= max(width, len(described("Pong")))
    assert len(lines) == -(-len(games) // blocks)
    down = [line.split()[0] for line in lines]
    assert down == games[: len(lines)], "names go down the columns"
    assert sum(len(line.split(GAP)) > 0 for line in lines) == len(lines)


def test_a_terminal_gets_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    assert main(["games"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["game", "act", "random", "human"] * 2
    assert max(map(len, lines)) < 80
