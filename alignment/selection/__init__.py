"""Choose training rows among scored answers: the best, pairs, or all with their rewards in the prompt."""
