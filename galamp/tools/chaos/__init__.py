"""Faults on purpose: a real training under a seeded schedule of them, and what has to hold."""
