"""Audit: judge published claims, and our own runs, from their own numbers.

``statements`` is the file format, ``loader`` reads it, ``examine`` runs the checks of ``metrology/forensics`` on each exhibit, ``judge``
makes verdicts of their findings, ``runs`` draws exhibits from a run directory; ``terminal``, ``page`` and ``machine`` show the result.
"""
