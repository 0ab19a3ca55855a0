"""The parts of on-policy runs: prompts, models, rewards, engines."""
