"""Predict the memory and communication of a run in a layout from shapes, without loading weights."""
