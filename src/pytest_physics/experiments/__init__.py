"""Protocols that drive a workload on an instrument and return typed results."""
