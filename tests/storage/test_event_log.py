"""events.jsonl: whole lines of bounded length, added only, whatever the disk and the killer do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from galamp.storage.event_log import MAX_CHARACTERS, MAX_LINE_BYTES, EventLog, read_events


def silent(text: str) -> None:
    raise AssertionError(text)


def log(path: Path, start: int = 1) -> EventLog:
    return EventLog(path, start, silent)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log(path).append(0.0, 1.23456, "lost", wall_s=61.5, kind="restart", who="simulator 0.1",
                     cause="was ended by SIGKILL", command="")  # fmt: skip
    (event,) = read_events(path)
    assert (event.start, event.elapsed_s, event.wall_s) == (1, 1.235, 61.5)
    assert (event.kind, event.who, event.text) == ("restart", "simulator 0.1", "lost")
    assert event.cause == "was ended by SIGKILL"
    assert event.time.startswith("1970-01-01T")
    assert "command" not in json.loads(path.read_text())


def test_a_later_start_only_adds(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log(path).append(0.0, 1.0, "first")
    before = path.read_bytes()
    log(path, 2).append(0.0, 1.0, "second")
    assert path.read_bytes().startswith(before)
    assert [(event.start, event.text) for event in read_events(path)] == [
        (1, "first"),
        (2, "second"),
    ]


def test_a_torn_line_is_passed_over_and_removed_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log(path).append(0.0, 1.0, "whole")
    with path.open("ab") as file:
        file.write(b'{"text": "to')
    assert [event.text for event in read_events(path)] == ["whole"]
    log(path, 2).append(0.0, 1.0, "next")
    assert [event.text for event in read_events(path)] == ["whole", "next"]
    assert b'"to' not in path.read_bytes()


@pytest.mark.parametrize("character", ["x", "\N{SNAKE}", "\x00", "\ud800"])
def test_no_line_is_longer_than_a_reader_takes(tmp_path: Path, character: str) -> None:
    path, much = tmp_path / "events.jsonl", character * 1_000_000
    log(path).append(0.0, 0.0, much, kind=much, who=much, cause=much, command=f"{much} end")
    assert path.stat().st_size < MAX_LINE_BYTES
    (event,) = read_events(path)
    assert len(event.text) == MAX_CHARACTERS["text"]
    assert event.command.endswith(" end")


def test_a_full_disk_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    path = tmp_path / "events.jsonl"
    events = EventLog(path, 1, told.append)
    events.append(0.0, 0.0, "before")
    write = os.write

    def half(file: int, content: bytes) -> int:
        if full:
            write(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content)

    full = True
    monkeypatch.setattr("galamp.storage.run_logs.os.write", half)
    for _ in range(3):
        events.append(0.0, 0.0, "meanwhile")
    full = False
    events.append(0.0, 0.0, "after")
    assert [event.text for event in read_events(path)] == ["before", "after"]
    assert len(told) == 1
    assert "No space left" in told[0]


def test_the_end_of_a_line_that_is_too_long_is_no_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("x" * MAX_LINE_BYTES + '{"text": "within"}\n{"text": "next"}\n')
    assert [event.text for event in read_events(path)] == ["next"]


@pytest.mark.parametrize(
    "line",
    ["", "x", "[]", "{}", '{"text": 3}', "[" * 100_000, '{"text": "' + "y" * 200_000 + '"}',
     "1" * 9999],
)  # fmt: skip
def test_what_is_no_event_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(f'{line}\n{{"text": "an event", "start": "1", "elapsed_s": true}}\n')
    (event,) = read_events(path)
    assert (event.text, event.start, event.elapsed_s) == ("an event", 0, 0.0)


def test_lines_of_an_older_galamp_are_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"time": "2026-01-31T12:00:00+00:00", "start": 2, "elapsed_s": 3, "text": "x"}\n'
    )
    (event,) = read_events(path)
    assert (event.start, event.elapsed_s, event.kind, event.text) == (2, 3, "notice", "x")


def test_no_file_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "events.jsonl")) == []
    assert list(read_events(tmp_path)) == []
