"""Monitor files are read as they were written, whatever else is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from galamp.storage.monitor_log import MONITOR, MonitorEpisode, MonitorLog, read_monitor
from galamp.tools.run_folders.pruning import OWN_FOLDERS

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


@pytest.mark.parametrize("emptied", [False, True])
def test_a_file_that_is_taken_away_is_begun_again_with_its_header(
    tmp_path: Path, emptied: bool
) -> None:
    """Its times still count from the first start, which the rows before have done, too."""
    path = tmp_path / "0.monitor.csv"
    path.write_bytes(HEAD + GOOD)
    log = MonitorLog(path, "ALE/Pong-v5", 5000.0, print)
    log.append(1.0, 5, 1004.0)
    log.flush()
    if emptied:
        os.truncate(path, 0)
    else:
        path.unlink()
    log.flush()
    log.append(2.0, 9, 1005.0)
    log.flush()
    assert path.read_bytes() == HEAD + b"2,9,4.5\n"
    assert list(read_monitor(path)) == [MonitorEpisode(1005.0, 2.0, 9)]


def test_every_damaged_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "0.monitor.csv"
    for damage in (b"one", b"two", b"three"):
        path.write_bytes(damage)
        MonitorLog(path, "E", 1.0, print).flush()
    kept = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each != path}
    assert kept == {
        "0.monitor.csv.damaged": b"one",
        "0.monitor.csv.damaged-1": b"two",
        "0.monitor.csv.damaged-2": b"three",
    }
    assert all(map(OWN_FOLDERS[MONITOR].fullmatch, kept)), "`galamp prune --whole` removes them"
