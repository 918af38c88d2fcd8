"""Parent: one run, from its settings to its summary."""
