"""HTTP servers of policies and of reward models."""
