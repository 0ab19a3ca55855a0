"""Build, find and call the compiled kernels of csrc."""
