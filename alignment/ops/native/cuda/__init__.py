"""The kernels of csrc/cuda: built or found, then called through their C interface."""
