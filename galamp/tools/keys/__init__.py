"""Keys of a run on several machines."""
