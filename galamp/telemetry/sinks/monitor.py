"""Monitor files as a metric sink: every episode, as Stable-Baselines3 and Gym write them."""

from __future__ import annotations

from galamp.storage.monitor_log import MONITOR, MonitorLog, monitor_name
from galamp.telemetry.sinks.base import Episode, MetricSink, Row, SinkContext


class MonitorSink(MetricSink):
    """Episodes in `monitor/<learner>.monitor.csv`, written whenever a row of metrics is."""

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._used = False
        folder = context.folder / MONITOR
        self._logs = [
            MonitorLog(
                folder / monitor_name(rank),
                context.env_id,
                context.t_start,
                context.warn,
                context.where,
            )
            for rank in range(context.learners)
        ]

    def write(self, row: Row) -> None:
        """Write the episodes that ended since the last row; the row itself is not kept."""
        self._used = True
        self.close()

    def add_episode(self, episode: Episode) -> None:
        """Note an episode."""
        self._used = True
        self._logs[episode.learner].append(episode.score, episode.length, episode.ended)

    def close(self) -> None:
        """Write what is left; a disk that refuses is told of once per file."""
        for log in self._logs if self._used else ():
            log.flush()
