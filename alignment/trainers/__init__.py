"""One folder a trainer: its arguments and how it is built."""
