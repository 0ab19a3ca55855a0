"""Build, find and call the kernels of csrc/cuda through their C interface."""
