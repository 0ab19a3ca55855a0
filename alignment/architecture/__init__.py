"""What a model and a layout are, in plain Python: no Paddle, no files."""
