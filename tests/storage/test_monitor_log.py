"""Monitor files are read as they were written, whatever else is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from galamp.storage.monitor_log import MonitorEpisode, MonitorLog, read_monitor

HEAD = b'#{"t_start": 1000.5, "env_id": "ALE/Pong-v5"}\nr,l,t\n'
GOOD = b"-21,764,2.5\n"
EPISODE = MonitorEpisode(1003.0, -21.0, 764)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    log = MonitorLog(tmp_path / "0.monitor.csv", "Pong", 1000.5, print)
    log.append(-21.0, 764, 1003.0)
    log.append(2.5, 9, 1004.25)
    log.flush()
    found = list(read_monitor(tmp_path / "0.monitor.csv"))
    assert found == [EPISODE, MonitorEpisode(1004.25, 2.5, 9)]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", HEAD, HEAD[:20], b"r,l,t\n" + GOOD, b"#{}\nr,l,t\n" + GOOD,
        b'#{"t_start": "x"}\nr,l,t\n' + GOOD, HEAD + GOOD[:-1], HEAD + GOOD[:5], b"\0" * 100,
    ],
)  # fmt: skip
def test_a_file_without_a_whole_episode_has_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "0.monitor.csv"
    path.write_bytes(content)
    assert list(read_monitor(path)) == []


@pytest.mark.parametrize(
    "line",
    [b"\n", b"1,2\n", b"1,2,3,4\n", b"nan,2,3\n", b"1,2,inf\n", b"x,2,3\n", b"1,2.5,3\n"],
)
def test_a_line_without_an_episode_is_skipped(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "0.monitor.csv"
    path.write_bytes(HEAD + line + GOOD)
    assert list(read_monitor(path)) == [EPISODE]


def test_what_is_no_file_has_no_episodes(tmp_path: Path) -> None:
    assert list(read_monitor(tmp_path)) == []
    assert list(read_monitor(tmp_path / "none")) == []
    os.mkfifo(tmp_path / "pipe")
    assert list(read_monitor(tmp_path / "pipe")) == []
