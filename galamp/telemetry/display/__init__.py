"""Display of a run: pure rendering of snapshots, and the displays that show it."""
