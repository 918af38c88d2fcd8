"""However long a run trained, and whatever somebody sends: reading it takes bounded memory."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galamp.core.errors import CheckpointError, UserError
from galamp.core.processes import probe_process
from galamp.core.processes.probe_process import Probing
from galamp.environments.probing import Probe
from galamp.gossip.topologies.from_file import FromFile
from galamp.storage import checkpoint as checkpoints
from galamp.storage.canonical_json import encode
from galamp.storage.gossip_log import read_gossip
from galamp.storage.learning_curve import MAX_POINTS, Curve
from galamp.storage.monitor_log import MAX_UNWRITTEN, MonitorLog
from galamp.storage.rate_cache import RateCache
from galamp.storage.run_folder import GRAPH_LIMIT_BYTES, RunFolder, read_json
from galamp.storage.run_logs import (
    LINE_LIMIT_BYTES,
    RETURN,
    MetricsLog,
    curve,
    last_known_row,
    last_row,
    last_start_in,
    read_metrics,
)
from galamp.tools.audit.audit import Point, Series
from tests.support.checkpoints import made, without_waiting_for_the_disk
from tests.support.engine import also

pytestmark = pytest.mark.real  # they read a lot

__all__ = ["without_waiting_for_the_disk"]

MIB = 2**20
Read = Callable[[Path], object]


@pytest.fixture(scope="module", autouse=True)
def what_others_left() -> Iterator[None]:
    """Is looked at once only, and not again before every block: it can be a million objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Peak:
    """The most memory that Python objects and NumPy arrays took in a block, in bytes."""

    used = 0

    def __enter__(self) -> Peak:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def refused(text: str) -> None:
    raise AssertionError(text)


# Long runs


def row_of(step: int, learners: int = 16) -> dict[str, Any]:
    """A row as large as that of so many learners: 6 KB."""
    names = ("agent_steps", "updates", "SPS", "episodic_return", "staleness", "envs", "distance")
    row = {f"learner{rank}/{name}": rank + step / 7 for rank in range(learners) for name in names}
    shared = {f"charts/quantity{number}": number + 1 / 3 for number in range(35)}
    return {"global_step": step, RETURN: step / 10, "start": 1} | shared | row


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The metrics of a run of 1,000 rows, which take 15 MB as objects."""
    path = tmp_path_factory.mktemp("long") / "metrics.jsonl"
    path.write_text("".join(json.dumps(row_of(step)) + "\n" for step in range(1000)))
    return path


def resumed(path: Path) -> object:
    return last_start_in(path)


def takes_in(path: Path) -> object:
    return len(curve(path).points)


def goes_on(path: Path) -> object:
    MetricsLog(path, 2, 100, refused)
    found = last_known_row(path)
    return found["start"] == 2 and found[RETURN] == 10.0


@pytest.mark.parametrize("read", [takes_in, resumed, last_row, last_known_row, goes_on])
def test_what_a_resume_reads_is_not_held(long_run: Path, tmp_path: Path, read: Read) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(long_run.read_bytes())
    with Peak() as peak:
        assert read(path)
    # The last row is looked for in the last million bytes; the rest is a point, or a row.
    assert peak.used < 3 * MIB, f"{peak.used / 1000:,.0f} bytes per row"


def test_the_last_start_is_that_of_the_last_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"global_step": 1, "start": 3}, {"global_step": 2, "start": 4}]
    for last, number in (([], 4), ([{"start": 9}], 9), ([{"start": "x"}, {}], 4)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows + last))
        assert last_start_in(path) == number


def test_only_the_end_is_read_for_the_last_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"global_step": 1, "start": 3}\n')
    monkeypatch.setattr("galamp.storage.run_logs.read_metrics", refused)
    assert last_start_in(path) == 3


@pytest.mark.parametrize("added", [MAX_POINTS, MAX_POINTS + 1, 3 * MAX_POINTS, 100_000])
def test_a_learning_curve_is_bounded_even_and_ends_with_the_newest(added: int) -> None:
    found = Curve()
    for step in range(added):
        found.add(step, step / 2)
        assert found.points[-1] == (step, step / 2)
    assert MAX_POINTS / 2 <= len(found.points) <= MAX_POINTS + 1
    steps = [step for step, _ in found.points]
    gaps = {later - sooner for sooner, later in itertools.pairwise(steps[:-1])}
    assert len(gaps) == 1
    assert steps[0] < 2 * max(gaps)


def test_a_curve_that_is_cut_goes_on_from_there() -> None:
    found = Curve()
    for step in range(3 * MAX_POINTS):
        found.add(step, 0.0)
    found.cut(10_000)
    assert 9_990 < found.points[-1][0] <= 10_000
    found.add(10_001, 1.0)
    found.add(10_002, 2.0)
    assert found.points[-1] == (10_002, 2.0)
    found.cut(-1)
    assert found.points == []
    found.add(0, 1.0)
    assert found.points == [(0, 1.0)]


def test_episodes_are_written_however_rarely_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "0.monitor.csv"
    log = MonitorLog(path, "E", 0.0, refused)
    with Peak() as peak:
        for number in range(2 * MAX_UNWRITTEN):
            log.append(number / 3, number, 1.0)
    assert path.read_bytes().count(b"\n") == 2 + 2 * MAX_UNWRITTEN
    assert peak.used < 400 * MAX_UNWRITTEN


def test_a_column_of_an_audit_is_all_that_it_takes() -> None:
    series = Series()
    for number in range(20_000):
        series.add(Point(*[float(number)] * len(Point._fields)))
    with Peak() as peak:
        column = series.column("pairwise")
    assert column[-1] == 19_999
    assert peak.used < 2 * column.nbytes


# Files that somebody sends

READERS: dict[str, Read] = {
    "rows": lambda path: list(read_metrics(path)),
    "curve": lambda path: curve(path).points,
    "last row": last_row,
    "last known row": last_known_row,
    "start": last_start_in,
    "monitor": lambda path: MonitorLog(path, "E", 0.0, refused).flush(),
    "gossip": lambda path: next(read_gossip(path), None),
}
"""What reads a log, and finds nothing in a line that is too long."""


@pytest.fixture
def short_lines(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lower the limits, as the time that a test takes grows with them, and return them."""
    limit = 2**17
    for name in ("run_logs.LINE_LIMIT_BYTES", "run_logs.TAIL_BYTES", "gossip_log.LINE_LIMIT_BYTES"):
        monkeypatch.setattr(f"galamp.storage.{name}", limit)
    return limit


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("end", [b"", b"\n", b'{"global_step": 1'])
def test_a_line_of_any_length_is_not_held(
    tmp_path: Path, short_lines: int, name: str, end: bytes
) -> None:
    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.truncate(100 * short_lines)  # takes no room on the disk
        file.seek(0, os.SEEK_END)
        file.write(end)
    with Peak() as peak:
        found = READERS[name](path)
    assert not found or "bytes in a line" in str(found)
    assert peak.used < 6 * short_lines


@pytest.mark.parametrize("piece", [b"[],", b'{"":1},', also(b"1,"), b"[1,[2,[3]]],", b"\n"])
@pytest.mark.parametrize("name", ["curve", "last row", "last known row", "gossip"])
def test_a_line_of_many_small_values_takes_bounded_memory(
    tmp_path: Path, short_lines: int, piece: bytes, name: str
) -> None:
    path = tmp_path / "log"
    start, end = b'{"global_step": 1, "a": [', b"0]}\n"
    count = (short_lines - len(start) - len(end)) // len(piece)
    path.write_bytes((start + piece * count + end) * 2)
    with Peak() as peak:
        READERS[name](path)
    assert peak.used < 80 * short_lines


def test_rows_of_a_thousand_learners_are_short_enough(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 1, 0, refused)
    log.append(row_of(123_456_789, learners=1024))
    assert len(list(read_metrics(path))) == 2
    assert 4 * path.stat().st_size < 3 * LINE_LIMIT_BYTES


def keeps_graph(path: Path) -> None:
    with contextlib.closing(RunFolder.open(path.parent)) as folder:
        path.rename(path.with_name("topology.txt"))
        folder.write_config({}, b"0 1")


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (read_json, "File too large|more than"),
        (keeps_graph, "File too large|more than"),
        (lambda path: FromFile(str(path), 2), "larger than 64 MiB"),
    ],
)
def test_a_file_of_any_size_is_refused(tmp_path: Path, read: Read, error: str) -> None:
    path = tmp_path / "file"
    (tmp_path / "config.json").write_text("{}")
    path.touch()
    os.truncate(path, 2**40)
    with Peak() as peak, pytest.raises(UserError, match=error):
        read(path)
    assert peak.used < 3 * GRAPH_LIMIT_BYTES


def test_a_cache_of_any_size_is_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "learners.json"
    path.touch()
    os.truncate(path, 2**40)
    with Peak() as peak:
        assert RateCache(path).find({"a": 1}) is None
    assert peak.used < 32 * MIB


# Checkpoints


def of_holes(folder: Path, learners: int, megabytes: int, *, sound: bool, tensors: int = 1) -> Path:
    """A checkpoint whose learners' files take no room on the disk; if sound, by their digests."""
    path = checkpoints.save(folder, made())
    state = json.loads((path / "state.json").read_bytes())
    parameters = megabytes * MIB // 8
    shape = [parameters // tensors]
    state["identity"]["layout"] = [[f"w{number}", shape] for number in range(tensors)]
    first = state["learners"][0]
    state["learners"] = [first | {"rank": rank} for rank in range(learners)]
    (path / "state.json").write_bytes(encode(state))
    size = 8 * parameters + first["generator_bytes"] + 9
    for rank in range(learners):
        file = path / f"learner-{rank}.safetensors"
        file.write_bytes(b"")
        os.truncate(file, size)
    holes = hashlib.sha256(bytes(size)).hexdigest() if sound else ""
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    del manifest["digest"]
    content = (path / "state.json").read_bytes()
    manifest["files"] = {"state.json": [len(content), hashlib.sha256(content).hexdigest()]}
    manifest["files"] |= {f"learner-{rank}.safetensors": [size, holes] for rank in range(learners)}
    manifest["digest"] = hashlib.sha256(encode(manifest)).hexdigest()
    (path / "MANIFEST.json").write_bytes(encode(manifest))
    return path


def free(monkeypatch: pytest.MonkeyPatch, megabytes: int) -> None:
    monkeypatch.setattr("galamp.storage.checkpoint.available_bytes", lambda: megabytes * MIB)


@pytest.mark.parametrize(
    ("learners", "megabytes", "wanted"),
    [(300, 1500, None), (300, 1500, range(0, 300, 4)), (5, 64, None), (1, 200, (0,))],
)
def test_more_than_memory_holds_is_refused_before_the_first_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    learners: int,
    megabytes: int,
    wanted: range | None,
) -> None:
    path = of_holes(tmp_path, learners, megabytes, sound=False)
    free(monkeypatch, 400)
    with (
        Peak() as peak,
        pytest.raises(CheckpointError, match=r"MiB of memory, 400 MiB are free") as told,
    ):
        checkpoints.load(path, learners=wanted)
    assert "\n" not in str(told.value)
    assert peak.used < 16 * MIB


def test_tiny_tensors_count_with_what_each_of_them_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = of_holes(tmp_path, 100, 1, sound=False, tensors=4096)
    free(monkeypatch, 110)  # more than the files take
    with pytest.raises(CheckpointError, match=r"its 100 learners take 2\d\d MiB of memory, 110"):
        checkpoints.load(path)


def test_what_fits_is_read_and_what_nobody_wants_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = of_holes(tmp_path, 3, 32, sound=True)
    free(monkeypatch, 0)
    with Peak() as peak:
        checkpoints.load(path, learners=())
        assert checkpoints.find(path).path == path
    assert peak.used < 2 * MIB
    free(monkeypatch, 97)
    with pytest.raises(CheckpointError, match=r"learner-1\.safetensors.*eader"):
        checkpoints.load(path, learners=(1,))  # it is read: there is no tensor in it


def test_damage_is_found_in_what_nobody_wants(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path, made())
    file = path / "learner-1.safetensors"
    content = file.read_bytes()
    for damaged, why in ((content[:-1] + b"?", "digest differs"), (content[:-1], "expected")):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"learner-1\.safetensors.*{why}"):
            checkpoints.load(path, learners=(0,))


@pytest.mark.parametrize("content", [b"", b"x" * 500, b"[" * 100_000, b"5\n"])
def test_of_a_probes_answer_only_so_much_is_read(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment runs in the process that writes it, and may write there, too."""
    monkeypatch.setattr(probe_process, "ANSWER_BYTES", 200_000)
    path = tmp_path / "answer"
    path.write_bytes(content)
    os.truncate(path, 2**24 if not content else len(content))
    with path.open("rb") as file:
        probe: Any = SimpleNamespace(
            _ended=lambda until_s: True, _stop=lambda: None, _close=lambda: None, _until_s=0.0,
            _answer=file.fileno(), _errors=file.fileno(), env_id="E", ending="exit code 2",
        )  # fmt: skip
        answer = Probing.answer(probe)
        assert len(answer.text) <= 200_000
        with pytest.raises(UserError, match="E: did not start"):
            Probe._spec(probe, answer)
