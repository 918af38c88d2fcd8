"""Core of all processes: errors, settings, the config, and facts of machine and processes."""
