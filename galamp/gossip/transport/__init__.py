"""Transport of published vectors to the peers, through shared memory. Runs in learners."""
