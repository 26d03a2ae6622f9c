"""Samplers and the traces they write."""
