"""The values that each preset sets: one module a suite."""
