"""Memory and messages of a run in a layout, computed from shapes: no weight is loaded."""
