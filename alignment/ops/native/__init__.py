"""The compiled generation kernels of csrc/core: how they are built, found and called."""
