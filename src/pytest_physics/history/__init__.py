"""Many runs of one machine: an index over run directories, series of one metric, and whether a new run is worse than the earlier ones.

The run directories are the truth. The index is a SQLite file that is made from them at any time, and never holds what they do not.
"""
