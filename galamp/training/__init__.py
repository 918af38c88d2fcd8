"""Parent: one training run, from its settings to its summary."""
