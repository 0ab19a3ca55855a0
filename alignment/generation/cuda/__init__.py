"""The fused engine's use of csrc/cuda: per step only token ids and log-probs leave the device."""
