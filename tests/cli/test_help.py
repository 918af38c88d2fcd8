"""`galamp help`: topics as they are, or laid out and paged on a terminal."""

from __future__ import annotations

import io
import os
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


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_what_an_encoding_does_not_have_is_a_question_mark(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", said[0])
    monkeypatch.setattr(sys, "stderr", said[1])
    assert main(["help", "gossip"]) == 0
    print("\u2264", file=sys.stderr, flush=True)
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in said)
    assert out.startswith("# Gossip")
    assert "?" in out
    assert err == "?\n"


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


@pytest.mark.parametrize(
    ("less", "styled"),
    [
        (None, True), ("-FRX", True), ("FrX", True), ("-F -R", True),
        ("-F --RAW-CONTROL-CHARS", True),
        ("", False), ("-FX", False), ("--quit-if-one-screen", False), ("-X -PRows", False),
    ],
)  # fmt: skip
def test_escape_codes_are_for_a_less_that_shows_them(
    less: str | None, styled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paged: list[str] = []
    monkeypatch.setattr(pydoc, "pager", paged.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if less is None:
        monkeypatch.delenv("LESS", raising=False)
    else:
        monkeypatch.setenv("LESS", less)
    assert main(["help", "gossip"]) == 0
    assert ("\x1b" in paged[0]) is styled
    assert os.environ["LESS"] == ("-FRX" if less is None else less)


def test_comments_stand_above_commands_that_would_be_too_long() -> None:
    text = (
        "galamp ls      # list\nbin/bench limit   # what is possible\nno command   # at all, here"
    )
    above = (
        "galamp ls      # list\n# what is possible\nbin/bench limit\nno command   # at all, here"
    )
    assert fitted(text, 21) == above
    assert fitted(text, 80) == text
