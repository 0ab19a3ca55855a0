"""On-policy algorithms without a critic: a baseline from other responses, or from the batch."""
