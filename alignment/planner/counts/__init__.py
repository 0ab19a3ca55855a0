"""Bytes and numbers of one model in one process, from its shapes: weights, gradients, and tensors on their way."""
