"""Parent: where children run, the memory that they share, and how they are started, watched,
restarted and rolled back.
"""
