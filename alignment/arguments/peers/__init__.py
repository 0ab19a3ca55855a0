"""What other suites call the keys of this one, and what they use where a key is not given."""
