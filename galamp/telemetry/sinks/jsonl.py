"""metrics.jsonl as a metric sink; always there, as curves and resumed runs read it."""

from __future__ import annotations

from galamp.storage.run_folder import METRICS
from galamp.storage.run_logs import MetricsLog
from galamp.telemetry.sinks.base import MetricSink, Row, SinkContext


class JsonlSink(MetricSink):
    """Rows of metrics in `metrics.jsonl`: all that is in them, and the number of the start."""

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        path = context.folder / METRICS
        self._log = MetricsLog(path, context.start, context.from_step, context.warn, context.where)

    def write(self, row: Row) -> None:
        """Add one line; a disk that refuses is told of once."""
        self._log.append(dict(row))
