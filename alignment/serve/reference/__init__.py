"""A frozen reference over HTTP: log-probs of given tokens."""
