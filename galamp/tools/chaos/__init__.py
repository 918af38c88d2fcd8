"""`galamp chaos`: a real training under seeded injected faults, checked against invariants."""
