"""`galamp plot`: learning curves and other metrics of runs, in the terminal or as a figure."""
