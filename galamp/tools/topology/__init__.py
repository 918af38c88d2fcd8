"""`galamp topology`: what is known of a gossip graph before a run."""
