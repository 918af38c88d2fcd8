"""Planning a gossip graph before a run: `galamp topology`."""
