"""Descriptions of models and layouts in plain Python, without Paddle or files."""
