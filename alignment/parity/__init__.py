"""Check that a parallel layout gives the numbers of one process, by comparing small runs of the real trainers."""
