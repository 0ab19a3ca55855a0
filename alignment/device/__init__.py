"""What one process needs of its machine: settings, memory, offload, random state."""
