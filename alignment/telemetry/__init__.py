"""Logs, metrics, progress and reports."""
