r"""Several metric sinks as one, none of which can disturb the others or the run.

    Recorder --> SinkGroup --> MetricSink, MetricSink, ...
                          \--> one line on the first failure of each

Runs in the supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from galamp.core.sanitize import one_line
from galamp.telemetry.sinks.base import Episode, MetricSink, Row, SinkContext

FAILURES = (Exception, SystemExit)
"""What a sink may raise without any harm to the run: also an attempt to end the process."""


class SinkGroup:
    """The sinks of one start, by name, in the order in which they are written to.

    One that raises is called again the next time, as a disk may have room again; only its first
    failure is told.

    Attributes:
        warn: takes one line about a sink that fails.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self._sinks: dict[str, MetricSink] = {}
        self._failed: set[str] = set()

    def add_all(self, sinks: Mapping[str, MetricSink]) -> None:
        """Add sinks; the names stand for them in messages."""
        self._sinks |= sinks

    def context_for(self, context: SinkContext) -> SinkContext:
        """Return a context whose warnings are given by this group."""
        return replace(context, warn=lambda text: self.warn(text))

    def write(self, row: Row) -> None:
        """Give every sink one row of metrics."""
        shown = MappingProxyType(dict(row))
        self._each(lambda sink: sink.write(shown))

    def add_episode(self, episode: Episode) -> None:
        """Give every sink a finished episode."""
        self._each(lambda sink: sink.add_episode(episode))

    def close(self) -> None:
        """Close every sink."""
        self._each(lambda sink: sink.close())

    def _each(self, call: Callable[[MetricSink], None]) -> None:
        for name, sink in self._sinks.items():
            try:
                call(sink)
            except FAILURES as error:
                self._warn_of(name, error)

    def _warn_of(self, name: str, error: BaseException) -> None:
        if name not in self._failed:
            self._failed.add(name)
            self.warn(f"--sinks {name}: {in_words(error)}; what it was given then is lost")


def in_words(error: BaseException) -> str:
    """Return what was raised, in one line."""
    return one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
