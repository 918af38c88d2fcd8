"""Parent: where children run, the memory they share, their starts, restarts and rollbacks."""
