"""Metric sinks of a user's: `--sinks tests.support.toy_sinks:NAME`."""

from __future__ import annotations

import json
from pathlib import Path

from galamp.telemetry.sinks.base import Episode, MetricSink, Row, SinkContext

FILE = "toy.jsonl"


class Toy(MetricSink):
    """Everything that it is given, a line each."""

    def write(self, row: Row) -> None:
        self._add("row", dict(row))

    def add_episode(self, episode: Episode) -> None:
        self._add("episode", episode._asdict())

    def close(self) -> None:
        self._add("close", {"start": self.context.start, "from": self.context.from_step})

    def _add(self, kind: str, values: dict[str, object]) -> None:
        with open(self.context.folder / FILE, "a") as file:
            file.write(json.dumps([kind, values]) + "\n")


def entries(folder: Path, kind: str) -> list[dict[str, object]]:
    """Return what `Toy` was given of one kind: `row`, `episode` or `close`."""
    lines = map(json.loads, (folder / FILE).read_text().splitlines())
    return [values for each, values in lines if each == kind]


class Broken(MetricSink):
    """One that fails whatever it is asked to do."""

    def write(self, row: Row) -> None:
        raise ConnectionError("the tracker is away")

    def add_episode(self, episode: Episode) -> None:
        raise RuntimeError

    def close(self) -> None:
        raise ValueError("closed")


class Unopened(Toy):
    """One that cannot be made."""

    def __init__(self, context: SinkContext) -> None:
        raise PermissionError("no key")


class Lacking(MetricSink):
    """One without what a sink has to have."""


NUMBER = 5
