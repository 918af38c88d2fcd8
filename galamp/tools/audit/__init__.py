"""`galamp audit`: the recorded gossip of a run, replayed and compared with the measurements."""
