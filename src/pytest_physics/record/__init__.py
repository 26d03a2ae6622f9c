"""A run's artifacts on disk: write, read, recompute, verify."""
