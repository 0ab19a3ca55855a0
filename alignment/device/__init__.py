"""What a process needs from its machine: settings, memory, offloading, random state."""
