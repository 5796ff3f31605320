"""One short file for each spark-submit entry, and the pure DataFrame transforms that they call."""
