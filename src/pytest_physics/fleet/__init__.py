"""Many machines: one exclusive job per node or point, runs that travel as directories, and one page over all of them.

An engine that people already run distributes the work (Slurm; without it the same verbs run locally, one after another). What comes back
is a run directory with its end marker, never a return value, so that any subset can be collected again and again, also by hand.
"""
