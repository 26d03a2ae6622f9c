"""Forensics: what published numbers say about themselves, checked without the data behind them.

One file per family of checks. Each check is a pure function that returns a :class:`~pytest_physics.metrology.forensics.finding.Finding`:
what follows from the numbers, with the arithmetic. ``catalogue`` lists all of them.
"""
