"""Scores of answers, in the forms of several suites."""
