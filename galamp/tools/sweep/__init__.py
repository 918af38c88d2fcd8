"""`galamp sweep`: many runs, over arms, environments and seeds, packed onto cores and GPUs."""
