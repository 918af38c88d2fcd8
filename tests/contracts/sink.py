"""What every metric sink must keep; inherit `SinkContract` and say how to read what it wrote."""

from __future__ import annotations

import errno
import math
import os
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from galamp.storage.run_folder import RunFolder
from galamp.storage.run_logs import last_start_in
from galamp.telemetry.sinks import open_sinks
from galamp.telemetry.sinks.base import Episode, MetricSink, SinkContext
from galamp.telemetry.sinks.group import SinkGroup
from tests.storage.test_run_folder import create

T_START = 1_700_000_000.0


def row(step: int, **more: Any) -> dict[str, Any]:
    """A row of metrics at so many agent steps, with a game's score that is a tenth of them."""
    return {"global_step": step, "charts/episodic_return": step / 10, **more}


def episode(step: int, learner: int = 0) -> Episode:
    return Episode(learner, step / 10, step, T_START + step)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class SinkContract(ABC):
    """Rows and episodes are written side by side; `steps` is what of them is read back."""

    name: str
    """In `SINKS`, or `module:Class`."""
    supersedes = True
    """Whether what a former start wrote beyond the next one's first step is not read any more."""

    @abstractmethod
    def steps(self, folder: Path) -> list[int]:
        """Return the agent steps of the rows, or the lengths of the episodes, in `folder`."""

    @pytest.fixture(autouse=True)
    def _in_a_run(self, tmp_path: Path) -> Any:
        self.run_folder: RunFolder = create(tmp_path, tmp_path / "run")
        self.folder = self.run_folder.path
        self.told: list[str] = []
        yield
        self.run_folder.close()

    def context(self, from_step: int = 0) -> SinkContext:
        return SinkContext(
            self.folder,
            'ALE/"x"',
            2,
            1 + last_start_in(self.run_folder.metrics),
            from_step,
            self.told.append,
            self.run_folder.where,
            T_START,
        )

    def open(self, from_step: int = 0, **changes: Any) -> SinkGroup:
        """Open the sink as a start of the run does, beside `jsonl`, which counts the starts."""
        return open_sinks(self.name, replace(self.context(from_step), **changes))

    def write(self, sink: SinkGroup | MetricSink, *steps: int) -> None:
        for step in steps:
            sink.add_episode(episode(step))
            sink.write(row(step))

    def test_what_is_written_is_read_in_order(self) -> None:
        sink = self.open()
        self.write(sink, 10, 20, 30)
        assert self.steps(self.folder) == [10, 20, 30], "without waiting for the end"
        sink.close()
        assert self.steps(self.folder) == [10, 20, 30]
        assert self.told == []

    def test_a_start_that_only_ends_leaves_nothing_to_read(self) -> None:
        self.open().close()
        assert self.steps(self.folder) == []
        assert self.told == []

    def test_episodes_of_every_learner_and_after_the_last_row_are_taken(self) -> None:
        sink = self.open()
        sink.write(row(10))
        for learner in (1, 0, 1):
            sink.add_episode(episode(20, learner))
        sink.close()
        assert self.told == []

    def test_any_value_and_any_name_may_come_and_go(self) -> None:
        sink = self.open()
        sink.write(row(10, none=None, nan=math.nan, inf=-math.inf, text="größer", huge=2**62))
        sink.write(row(20, **{"learner7/SPS": 1.5, "a name": 3}))
        sink.write({"global_step": 30})
        self.write(sink, 40)
        sink.close()
        assert self.steps(self.folder)[-1] == 40
        assert self.told == []

    def test_a_row_is_only_read(self) -> None:
        kept = row(10, text="a")
        given = MappingProxyType(kept)
        sink = self.open()
        sink.write(given)
        sink.close()
        assert kept == row(10, text="a")
        assert self.told == []

    def test_a_start_goes_on_where_the_last_one_was_saved(self) -> None:
        first = self.open()
        self.write(first, 10, 20, 30, 40)
        first.close()
        second = self.open(from_step=20)
        self.write(second, 25, 35)
        second.close()
        kept = [10, 20] if self.supersedes else [10, 20, 30, 40]
        assert self.steps(self.folder) == [*kept, 25, 35]
        third = self.open(from_step=35)
        self.write(third, 50)
        third.close()
        assert self.steps(self.folder) == [*kept, 25, 35, 50]
        assert self.told == []

    def test_a_killed_start_takes_no_other_rows_with_it(self) -> None:
        first = self.open()
        self.write(first, 10, 20)
        for path in self.folder.rglob("*"):  # half a record at the end of every file
            if path.is_file() and path.name != "lock" and path.stat().st_size:
                with open(path, "ab") as file:
                    file.write(b"\x18")
        self.write(self.open(from_step=20), 30)
        assert self.steps(self.folder) == [10, 20, 30]

    def test_nothing_is_written_into_a_folder_that_is_not_the_runs_any_more(self) -> None:
        lost = False
        sink = self.open(where=lambda path: None if lost else path)
        self.write(sink, 10)
        lost, before = True, everything(self.folder)
        self.write(sink, 20, 30)
        sink.close()
        assert everything(self.folder) == before
        assert self.told == [], "the run tells of that"

    def test_a_disk_that_refuses_is_told_once_and_costs_its_rows_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink = self.open()
        self.write(sink, 10)
        with monkeypatch.context() as patch:

            def full(*_: object) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(os, "write", full)
            self.write(sink, 20, 30)
        self.write(sink, 40)
        sink.close()
        assert self.steps(self.folder) == [10, 40]
        named = [line for line in self.told if "metrics.jsonl" not in line or self.name == "jsonl"]
        assert len(named) == 1
        assert "No space left on device" in named[0]

    def test_a_disk_that_takes_only_half_keeps_none_of_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink, write = self.open(), os.write
        self.write(sink, 10)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
            self.write(sink, 20)
        self.write(sink, 30)
        sink.close()
        assert self.steps(self.folder) == [10, 30]

    def test_no_file_stays_open_between_rows(self) -> None:
        before = os.listdir("/proc/self/fd")
        sink = self.open()
        self.write(sink, 10, 20)
        assert os.listdir("/proc/self/fd") == before
        sink.close()
