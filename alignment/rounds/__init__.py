"""Rounds of stages (generate, score, select, train, evaluate): one file says what they are, one what was done."""
