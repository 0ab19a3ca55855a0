"""Supervised fine-tuning: arguments and assembly."""
