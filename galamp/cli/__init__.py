"""The command line: arguments to settings, outcomes to exit codes. One file per command."""
