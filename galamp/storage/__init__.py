"""What a run leaves on disk: checkpoints, the run folder, and the logs that grow in it."""
