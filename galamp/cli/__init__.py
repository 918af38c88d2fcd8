"""The command line: words to settings, outcomes to exit codes. One file per command."""
