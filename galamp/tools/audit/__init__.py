"""`galamp audit`: the recorded gossip of a run, replayed and held against what was measured."""
