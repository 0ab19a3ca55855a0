"""Argument groups shared by several trainers: one dataclass each, one field per key."""
