"""The on-policy trainer: arguments and assembly."""
