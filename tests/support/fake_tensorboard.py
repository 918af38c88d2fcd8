"""A stand-in for the parts of the package tensorboard that its sink uses: a JSON line per event.

    fake_tensorboard.modules() --> sys.modules --> galamp.telemetry.sinks.tensorboard

Event files written with it are read by `visible`, and by nothing else.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


class SessionLog(dict[str, Any]):
    START = 1

    def __init__(self, status: int) -> None:
        super().__init__(status=status)


class Values(list[dict[str, Any]]):
    def add(self, tag: str, simple_value: float) -> None:
        assert isinstance(tag, str)
        assert type(simple_value) is float
        self.append({"tag": tag, "simple_value": simple_value})


class Event:
    def __init__(
        self,
        wall_time: float,
        step: int = 0,
        file_version: str = "",
        session_log: SessionLog | None = None,
    ) -> None:
        self.wall_time, self.step, self.file_version = wall_time, step, file_version
        self.session_log = session_log
        self.summary = types.SimpleNamespace(value=Values())

    def SerializeToString(self) -> bytes:
        return json.dumps(vars(self) | {"summary": self.summary.value}).encode()


class RecordWriter:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        self._file.write(data + b"\n")


def modules() -> dict[str, types.ModuleType]:
    """Return modules by name, to be put into sys.modules."""
    content: dict[str, dict[str, Any]] = {
        "tensorboard": {},
        "tensorboard.compat": {},
        "tensorboard.compat.proto": {},
        "tensorboard.compat.proto.event_pb2": {"Event": Event, "SessionLog": SessionLog},
        "tensorboard.summary": {},
        "tensorboard.summary.writer": {},
        "tensorboard.summary.writer.record_writer": {"RecordWriter": RecordWriter},
    }
    found = {}
    for name, values in content.items():
        found[name] = types.ModuleType(name)
        found[name].__path__ = []
        vars(found[name]).update(values)
    return found


def visible(folder: Path) -> list[dict[str, Any]]:
    """Return the events that TensorBoard would show of all files in a folder."""
    shown: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*tfevents*")) if folder.is_dir() else []:
        events = list(_events(path))
        assert events[0]["file_version"] == "brain.Event:2"
        for event in events[1:]:
            if event["session_log"]:
                shown = [each for each in shown if each["step"] < event["step"]]
            else:
                shown.append(event)
    return shown


def _events(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)
