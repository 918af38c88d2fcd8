"""Run folders at a glance: list them (`ls`), show one (`show`), make room (`prune`)."""
