"""Preference losses of a policy, on the log-probs of whole answers."""
