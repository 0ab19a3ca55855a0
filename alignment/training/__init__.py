"""Losses to new weights."""
