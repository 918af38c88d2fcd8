"""Every process: errors, settings, the config, and what the machine and its processes are."""
