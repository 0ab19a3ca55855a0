"""Pure functions of tensors: KL, rewards, advantages, losses."""
