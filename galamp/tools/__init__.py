"""Commands beside training: evaluation, topology, audit, chaos and bench."""
