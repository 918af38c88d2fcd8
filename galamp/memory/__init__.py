"""All processes of a run: the shared memory block, and the lock-free structures in it."""
