"""Memory and messages of a PPO run in a layout, computed from shapes: no weight is loaded."""
