"""Stages between trainings: generate answers, score them, choose among them. Each reads files and writes one."""
