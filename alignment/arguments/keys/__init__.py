"""Groups of arguments that several trainers share: one dataclass each, one field a key."""
