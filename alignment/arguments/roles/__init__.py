"""Which ranks of a run hold the model of which role."""
