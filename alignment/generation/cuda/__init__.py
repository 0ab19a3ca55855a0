"""The kernels of csrc/cuda for the fused engine: everything of a step stays on the device but ids and log-probs."""
