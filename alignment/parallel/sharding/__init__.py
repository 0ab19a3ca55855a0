"""Gradients, optimizer states and weights cut over the sharding processes (stages 1 to 3)."""
