"""Recorded usages of experts, judged from outside: files, the report in the terminal, points of a sweep on a cluster and their merging."""
