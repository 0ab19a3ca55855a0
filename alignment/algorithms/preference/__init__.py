"""Losses of a policy on pairs of answers, from the log-probs of whole answers."""
