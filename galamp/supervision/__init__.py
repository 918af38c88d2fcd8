"""Parent: run layout, start, supervision, restart and rollback of child processes."""
