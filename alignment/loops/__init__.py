"""Training loops: the layer that connects rollouts with training."""
