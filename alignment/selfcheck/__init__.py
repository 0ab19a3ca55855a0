"""Trials of this machine in child processes: operators, both engines, an update."""
