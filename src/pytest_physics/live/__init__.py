"""Watching devices while something runs: ``pytest-physics monitor`` and ``pytest-physics joint``."""
