"""Proof that a layout gives the numbers of one process: small runs of the real trainers, compared."""
