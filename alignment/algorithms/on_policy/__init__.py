"""On-policy algorithms, described by one spec."""
