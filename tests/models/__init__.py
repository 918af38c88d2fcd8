"""Models of the shared-memory protocols, checked over all interleavings with crashes anywhere."""
