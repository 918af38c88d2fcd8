"""gossip.jsonl: what is written comes back exactly, and what is not sound is told line by line."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galamp.gossip.transport.publication import CHECKSUMS, Publication
from galamp.storage import gossip_log
from galamp.storage.gossip_log import (
    Damaged,
    Entry,
    GossipLog,
    Lost,
    Measurement,
    Rebase,
    Start,
    parse,
    read_gossip,
)
from galamp.storage.run_logs import last_row, read_metrics

counts = st.integers(0, 2**63 - 1)
checksums = st.integers(0, CHECKSUMS - 1)
amounts = st.floats(0, 1e100)
messages = st.lists(st.tuples(counts, counts, amounts), max_size=3).map(tuple)
ENTRIES: list[Entry] = [
    Start(1, 2, "ring", False, 0.0, ((0.0, 0.5), (0.5, 0.0))),
    Publication(1, 7, 6, 7, 0, 0.0123, 0.5, ((0, 5, 0.25), (2, 5, 0.25))),
    Lost(1, 9),
    Rebase(1, 12, (0, 15), 0.31),
    Measurement(12.5, 5000, (7, 6), (0.1, 0.2), 0.31, 61.2, (0.9, 1.0), 2.2, 1.3),
    Measurement(12.5, 5000, (7, 6), (0.1, 0.2), 0.31, 61.2, None, None, None),
    Publication(3, 8, 6, 7, 2, 0.0123, 1.0, (), 0.004),
    Start(1, 2, "ring", False, 0.0, ((0.0, 0.5), (0.5, 0.0)), (1, 2), adopted=True),
]


def refused(line: str) -> None:
    pytest.fail(line)


def line_of(entry: Entry, **changed: Any) -> bytes:
    return json.dumps(entry.as_dict() | changed).encode() + b"\n"


def test_all_kinds_come_back_as_written(tmp_path: Path) -> None:
    log = GossipLog(tmp_path / "gossip.jsonl", refused)
    assert log.append([entry.as_dict() for entry in ENTRIES[:2]])
    assert log.append([])
    assert log.append([entry.as_dict() for entry in ENTRIES[2:]])
    assert list(read_gossip(tmp_path / "gossip.jsonl")) == ENTRIES


@pytest.mark.parametrize(
    "read", [lambda path: list(read_gossip(path)), last_row, lambda path: list(read_metrics(path))]
)
def test_a_pipe_of_that_name_holds_no_reader(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    resume_point = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for the pipe"))
    signal.alarm(2)
    try:
        with contextlib.suppress(OSError):
            assert not read(tmp_path / "pipe")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, resume_point)


@given(st.builds(Publication, *[counts] * 5, amounts, amounts, messages, amounts, checksums))
def test_numbers_survive_exactly(entry: Publication) -> None:
    assert parse(gossip_log._line(entry.as_dict()).encode()) == entry


def test_lines_are_those_of_the_format() -> None:
    (line,) = {gossip_log._line(ENTRIES[1].as_dict())}
    assert line == (
        '{"kind":"publication","learner":1,"number":7,"round":6,"version":7,"incarnation":0,'
        '"length":0.0123,"own":0.5,"mixed":[[0,5,0.25],[2,5,0.25]]}\n'
    )


def test_float32_widens_exactly(tmp_path: Path) -> None:
    length = np.float32(0.1)
    GossipLog(tmp_path / "g", refused).append([ENTRIES[1]._replace(length=length).as_dict()])  # type: ignore[union-attr, call-arg]
    (entry,) = read_gossip(tmp_path / "g")
    assert isinstance(entry, Publication)
    assert entry.length == float(length) != 0.1


def test_what_diverged_is_written_as_no_number(tmp_path: Path) -> None:
    entry = ENTRIES[1].as_dict() | {"length": math.inf}
    assert GossipLog(tmp_path / "g", refused).append([entry, ENTRIES[2].as_dict()])
    damaged, lost = read_gossip(tmp_path / "g")
    assert damaged == Damaged("publication: length: expected a finite number from 0, found null")
    assert lost == ENTRIES[2]


def test_a_cut_last_line_is_passed_over_and_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "g"
    whole = line_of(ENTRIES[2])
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert list(read_gossip(path)) == [ENTRIES[2]]
    GossipLog(path, refused).append([ENTRIES[3].as_dict()])
    assert list(read_gossip(path)) == [ENTRIES[2], ENTRIES[3]]


def test_every_whole_line_gives_one_item(tmp_path: Path) -> None:
    path = tmp_path / "g"
    path.write_bytes(b"\n" + line_of(ENTRIES[2]) + b"garbage\xff\n\n" + line_of(ENTRIES[3]))
    kinds = [type(item) for item in read_gossip(path)]
    assert kinds == [Damaged, Lost, Damaged, Damaged, Rebase]


def test_a_line_without_end_is_not_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip_log, "LINE_LIMIT_BYTES", 64)
    path = tmp_path / "g"
    for filler in (b"x" * 1000, b"x" * 63, b"x" * 64, b"x" * 65, b"x" * 128):
        path.write_bytes(line_of(ENTRIES[2]) + filler + b"\n" + line_of(ENTRIES[2]))
        first, damaged, last = read_gossip(path)
        assert first == last == ENTRIES[2]
        assert isinstance(damaged, Damaged)
        assert ("64 bytes" in damaged.wrong) == (len(filler) > 63)


def test_a_full_disk_is_told_once_and_costs_only_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    log = GossipLog(tmp_path / "g", told.append)
    assert log.append([ENTRIES[0].as_dict()])

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not log.append([ENTRIES[1].as_dict()])
        assert not log.append([ENTRIES[2].as_dict()])
    assert log.append([ENTRIES[3].as_dict()])
    assert log.failed == 2
    (complaint,) = told
    assert "No space left on device" in complaint
    assert list(read_gossip(tmp_path / "g")) == [ENTRIES[0], ENTRIES[3]]


def test_entries_go_on_from_a_start_or_are_not_written(tmp_path: Path) -> None:
    """Alone they are no record; whoever writes them has to begin it again."""
    path = tmp_path / "g"
    log = GossipLog(path, refused)
    start, entry = ENTRIES[0].as_dict(), ENTRIES[1].as_dict()
    assert log.append([start, entry])
    path.unlink()
    assert not log.append([entry])
    assert (log.is_gone, log.failed) == (True, 0)
    assert not path.exists() or not path.stat().st_size
    assert log.append([start])
    assert log.append([entry])
    assert not log.is_gone
    assert list(read_gossip(path)) == list(ENTRIES[:2])


START, PUBLICATION, LOST, REBASE, MEASUREMENT, *_ = ENTRIES


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"[]\n", "expected a JSON object"),
        (b"17\n", "expected a JSON object"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 3000 + b"\n", "not JSON"),
        (b"[" * 5000 + b"\n", "more than 4096 lists and objects"),
        (b'{"kind":"lost","learner":' + b"1" * 5000 + b',"number":1}\n', "not JSON"),
        (b"{}\n", "kind: expected start, publication"),
        (b'{"kind":["lost"]}\n', "kind: expected start, publication"),
        (b'{"kind":"gone"}\n', "kind: expected start, publication"),
        (line_of(LOST, learner=True), "learner: expected a whole number"),
        (line_of(LOST, learner=1.0), "learner: expected a whole number"),
        (line_of(LOST, number=-1), "number: expected a whole number"),
        (line_of(LOST, number=2**63), "number: expected a whole number"),
        (line_of(LOST, number=None), "number: expected a whole number"),
        (line_of(PUBLICATION, length=-1e-9), "length: expected a finite number"),
        (line_of(PUBLICATION, length=math.nan), "length: expected a finite number"),
        (line_of(PUBLICATION, length=math.inf), "length: expected a finite number"),
        (line_of(PUBLICATION, length=10**400), "length: expected a finite number"),
        (line_of(PUBLICATION, length="1"), "length: expected a finite number"),
        (line_of(PUBLICATION, own=False), "own: expected a finite number"),
        (line_of(PUBLICATION, mixed={}), "mixed: expected a list, found an object"),
        (line_of(PUBLICATION, mixed=[[1, 2]]), "mixed[0]: expected a list of peer, number, weight"),
        (line_of(PUBLICATION, mixed=[{"peer": 1}]), "mixed[0]: expected a list of peer, number"),
        (line_of(PUBLICATION, mixed=[[1, 2, -0.1]]), "mixed[0][2]: expected a finite number"),
        (line_of(REBASE, anchor=[1]), "anchor: expected a list of 2"),
        (line_of(REBASE, anchor=[1, "2"]), "anchor[1]: expected a whole number"),
        (
            line_of(START, learners=0, distances=[]),
            "learners: expected a whole number from 1 to 1024",
        ),
        (line_of(START, learners=3), "distances: expected a list of 3"),
        (line_of(START, distances=[[0, 1], [1]]), "distances: expected a list of 2"),
        (line_of(START, distances=[[0, 1], [-1, 0]]), "distances[1][0]: expected a finite number"),
        (line_of(START, sync=1), "sync: expected true or false"),
        (line_of(START, topology=None), "topology: expected text"),
        (line_of(MEASUREMENT, numbers=[1]), "numbers: expected a list of 2"),
        (line_of(MEASUREMENT, distances=None), "distances: expected a list"),
        (line_of(MEASUREMENT, certificate=[1.0]), "certificate: expected a list of 2"),
        (line_of(MEASUREMENT, certificate_pairwise=-1), "certificate_pairwise: expected a finite"),
        (line_of(MEASUREMENT, radius="far"), "radius: expected a finite"),
    ],
)
def test_what_is_not_sound_is_told(line: bytes, wrong: str) -> None:
    item = parse(line)
    assert isinstance(item, Damaged)
    assert wrong in item.wrong
    assert item.wrong.isprintable()
    assert len(item.wrong) < 100


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(line: bytes) -> None:
    assert isinstance(parse(line), Damaged)


@given(
    st.sampled_from(ENTRIES),
    st.data(),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    ),
)
def test_a_field_of_any_value_gives_an_entry_or_what_is_wrong(
    entry: Entry, data: st.DataObject, value: Any
) -> None:
    name = data.draw(st.sampled_from(sorted(entry.as_dict())))
    assert isinstance(parse(line_of(entry, **{name: value})), type(entry) | Damaged)
