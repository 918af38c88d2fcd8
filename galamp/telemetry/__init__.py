"""Parent: from the counters in shared memory to snapshots, logs and the dashboard."""
