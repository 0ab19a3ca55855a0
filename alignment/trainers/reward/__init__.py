"""Reward and cost models: arguments and assembly."""
