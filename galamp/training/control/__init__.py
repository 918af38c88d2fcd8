"""Parent: RUN/control, the socket by which other commands talk to a running run."""
