"""Profile of a running run: all of its processes at once, by py-spy, and where their time went."""
