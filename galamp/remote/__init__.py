"""Talking to a run that is under way: look on, ask for more or fewer learners."""
