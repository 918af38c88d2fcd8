"""`galamp topology`: analysis of a gossip graph before a run."""
