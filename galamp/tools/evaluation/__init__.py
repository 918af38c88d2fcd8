"""Evaluation of a trained agent: `galamp eval`, and `galamp.load` in Python."""
