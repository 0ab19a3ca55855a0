"""The file of a loop: its keys, those of its stages, and what does not fit."""
