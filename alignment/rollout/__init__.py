"""Turn prompts into scored rollouts with advantages."""
