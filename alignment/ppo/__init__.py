"""PPO: arguments, assembly and entry script."""
