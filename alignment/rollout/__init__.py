"""Prompts to experience."""
