"""Experiments in the report: how each is drawn and tabulated, one module each; ``report.sections`` registers them."""
