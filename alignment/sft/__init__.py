"""Supervised fine-tuning: arguments, assembly and entry script."""
