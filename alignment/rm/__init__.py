"""Reward models: arguments, assembly and entry script."""
