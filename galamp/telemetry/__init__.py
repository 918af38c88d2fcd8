"""Parent: metrics, logs, snapshots and the dashboard, made from the counters in shared memory."""
