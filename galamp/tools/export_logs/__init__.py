"""`galamp export-logs`: the metrics of any run for TensorBoard and Weights & Biases, afterwards."""
