"""Gossip between learners: graphs (topologies), shared-memory transport, and mixing."""
