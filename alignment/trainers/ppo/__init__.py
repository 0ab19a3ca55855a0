"""PPO: arguments and assembly."""
