"""Bent metrics, monitor files and gossip records: rows passed over, or told line by line."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import time
import tracemalloc
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from galamp.cli.main import main
from galamp.gossip.transport.publication import Publication, Source
from galamp.storage.gossip_log import Damaged, Entry, Lost, Measurement, Rebase, Start, parse
from galamp.storage.monitor_log import MonitorLog, read_monitor
from galamp.storage.run_logs import RETURN, MetricsLog, curve, last_start_in, read_metrics
from tests.fuzz.bending import EDITS, bent_json, edited, examples

ROWS: list[dict[str, Any]] = [
    {"global_step": 0, "resumed_from": 0, "start": 1},
    *({"global_step": step, RETURN: step / 7, "start": 1} for step in (10, 20, 30)),
    {"global_step": 20, "resumed_from": 20, "start": 2},
    {"global_step": 40, RETURN: None, "start": 2},
]


def lines_of(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def metrics_are_usable(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert all(isinstance(row, dict) for row in read_metrics(path))
    assert all(0 <= step < 2**53 and math.isfinite(score) for step, score in curve(path).points)
    told: list[str] = []
    assert 0 <= last_start_in(path) < 2**31
    log = MetricsLog(path, 3, 20, told.append)
    log.append({"global_step": 25, RETURN: 2.5})
    assert curve(path).points[-1] == (25, 2.5)
    assert not told


@examples(80, 1000)
def test_metrics_bytes(thorough: Any, tmp_path: Path) -> None:
    @thorough
    @given(EDITS)
    def bent(edits: list[tuple[str, float, int, bytes]]) -> None:
        metrics_are_usable(tmp_path / "metrics.jsonl", edited(lines_of(ROWS), edits))

    bent()


@examples(60, 800)
def test_metrics_values(thorough: Any, tmp_path: Path) -> None:
    @thorough
    @given(bent_json(ROWS))
    @example([{"global_step": 1, RETURN: 10**400}])
    @example([{"global_step": 1, RETURN: math.inf}])
    @example([{"global_step": 10**400, "start": 10**400}])
    @example([{"global_step": 1, "start": []}, {"global_step": 1, "start": {}}])
    def bent(rows: Any) -> None:
        content = lines_of(rows if isinstance(rows, list) else [rows])
        metrics_are_usable(tmp_path / "metrics.jsonl", content)

    bent()


def test_metrics_that_are_no_file_or_one_endless_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/zero")
    assert list(read_metrics(path)) == []
    path.unlink()
    path.mkdir()
    assert curve(path).points == []
    path.rmdir()
    with open(path, "wb") as file:
        file.truncate(2**26)
        file.seek(0, io.SEEK_END)
        file.write(b"\n" + lines_of(ROWS[:2]))
    assert list(read_metrics(path)) == ROWS[:2]


MONITOR = b'#{"t_start": 1000.5, "env_id": "ALE/Pong-v5"}\nr,l,t\n-21,764,2.5\n1.5,10,3.6\n'


@examples(80, 1000)
def test_monitor_files(thorough: Any, tmp_path: Path) -> None:
    path = tmp_path / "0.monitor.csv"

    @thorough
    @given(EDITS)
    @example([("replace", 13.5 / len(MONITOR), 6, b"9" * 400)])
    @example([("replace", 13.5 / len(MONITOR), 6, b"NaN")])
    @example([("delete", 0, 1, b"")])
    def bent(edits: list[tuple[str, float, int, bytes]]) -> None:
        path.write_bytes(edited(MONITOR, edits))
        assert all(map(math.isfinite, itertools.chain.from_iterable(read_monitor(path))))
        told: list[str] = []
        log = MonitorLog(path, "ALE/Pong-v5", 2000.0, told.append)
        log.append(3.0, 5, 2001.0)
        log.flush()
        written = path.read_bytes()
        assert written.startswith(b"#{")
        assert written.endswith(b"\n")
        assert math.isfinite(float(written.splitlines()[-1].split(b",")[2]))
        assert not told

    bent()


def publication(learner: int, number: int, peer: int) -> Publication:
    return Publication(
        learner, number, number, number, 0, 1.0, 0.5, (Source(peer, number - 1, 0.5),)
    )


RECORD: list[Entry] = [
    Start(1, 2, "ring", False, 0.0, ((0.0, 0.5), (0.5, 0.0))),
    *(publication(learner, number, 1 - learner) for number in (1, 2) for learner in (0, 1)),
    Measurement(1.5, 500, (2, 2), (0.1, 0.1), 0.2, 60.0, (0.9, 1.0), 2.0, None),
    Lost(1, 4),
    Rebase(1, 4, (0, 2), 0.3),
    Measurement(2.5, 600, (2, 4), (0.1, 0.1), 0.2, 60.0, None, None, 1.5),
]
RECORDED = [entry.as_dict() for entry in RECORD]


def audit_answers(run: Path, content: bytes, code: int | None = None) -> None:
    (run / "gossip.jsonl").write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        answer = main(["audit", str(run)])
    assert err.getvalue() == ""
    assert answer in ((0, 1) if code is None else (code,)), out.getvalue()
    lines = out.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith("run ")


def test_the_record_that_is_bent_is_sound(tmp_path: Path) -> None:
    audit_answers(tmp_path, lines_of(RECORDED), code=0)


@examples(60, 800)
def test_gossip_bytes(thorough: Any, tmp_path: Path) -> None:
    @thorough
    @given(EDITS)
    def bent(edits: list[tuple[str, float, int, bytes]]) -> None:
        audit_answers(tmp_path, edited(lines_of(RECORDED), edits))

    bent()


@examples(60, 800)
def test_gossip_values(thorough: Any, tmp_path: Path) -> None:
    @thorough
    @given(bent_json(RECORDED))
    def bent(record: Any) -> None:
        audit_answers(tmp_path, lines_of(record if isinstance(record, list) else [record]))

    bent()


def test_a_record_of_more_learners_than_there_can_be_takes_no_memory(tmp_path: Path) -> None:
    learners = 1025
    rows = [[0] * learners] * learners
    start = RECORDED[0] | {"learners": learners, "distances": rows}
    audit_answers(tmp_path, lines_of([start]), code=1)


def test_a_line_of_millions_of_lists_costs_neither_time_nor_memory() -> None:
    line = b'{"kind":"start","distances":[' + b"[]," * 10**7 + b"[]]}\n"
    tracemalloc.start()
    began_s = time.process_time()
    assert parse(line) == Damaged("more than 4096 lists and objects in a line")
    assert time.process_time() - began_s < 1.0
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


ORDERS = st.permutations(RECORDED) | st.lists(st.sampled_from(RECORDED), max_size=20)


@examples(40, 500)
def test_gossip_orders(thorough: Any, tmp_path: Path) -> None:
    @thorough
    @given(ORDERS)
    def bent(record: list[Any]) -> None:
        audit_answers(tmp_path, lines_of(record))

    bent()
