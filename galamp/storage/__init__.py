"""Files of a run: checkpoints, the run folder, and the logs that grow in it."""
