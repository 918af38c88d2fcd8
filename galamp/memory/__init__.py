"""Shared memory of a run: one block that all processes map, and the lock-free structures in it."""
