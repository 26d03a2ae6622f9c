"""Plugins that all tests may use, and how Hypothesis runs here."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["pytester"]

settings.register_profile("shared-machine", deadline=None)  # how long one example takes says who else is at work
settings.load_profile("shared-machine")
