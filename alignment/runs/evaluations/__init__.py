"""Evaluations of models and answers: ``alignment eval``."""
