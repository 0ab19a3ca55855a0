"""Notice when a policy exploits its reward instead of doing what the reward is meant for."""
