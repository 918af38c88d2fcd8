"""Processes: probe processes, exit reports, and orphans. Used mostly by the parent."""
