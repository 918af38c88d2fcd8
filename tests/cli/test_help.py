"""`galamp help`: topics as they are, or laid out and paged on a terminal."""

from __future__ import annotations

import pydoc
import re
import sys

import pytest

from galamp.cli.help import fitted, topics
from galamp.cli.main import main


def test_without_a_topic_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    out, err = capsys.readouterr()
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert (set(topics()) <= set(listed), err) == (True, "")
    assert all(len(line) <= 79 for line in out.splitlines())


def test_an_unknown_topic_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "gosip"]) == 2
    told = "galamp: unknown topic 'gosip' (did you mean gossip?); see galamp help\n"
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize("topic", ["../topics/gossip", "", "__init__", "gossip.md"])
def test_no_other_file_is_a_topic(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", topic]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_help_of_a_command_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["help", "games"])
    assert capsys.readouterr().out.startswith("usage: galamp games")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_on_a_terminal_a_topic_is_laid_out_and_paged(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paged: list[str] = []
    monkeypatch.setattr(pydoc, "pager", paged.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["help", "gossip"]) == 0
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in paged[0].splitlines()]
    assert "Gossip" in "".join(lines[:3]), "a title, without its #"
    assert any(line.strip() == "The bound" for line in lines)
    assert max(map(len, lines)) <= min(columns, 100)


def test_comments_stand_above_commands_that_would_be_too_long() -> None:
    text = (
        "galamp ls      # list\nbin/bench limit   # what is possible\nno command   # at all, here"
    )
    above = (
        "galamp ls      # list\n# what is possible\nbin/bench limit\nno command   # at all, here"
    )
    assert fitted(text, 21) == above
    assert fitted(text, 80) == text
