"""Count elements and bytes of one model in one process: weights, gradients, activations and messages."""
