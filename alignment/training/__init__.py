"""Update weights from losses, and save and restore runs."""
