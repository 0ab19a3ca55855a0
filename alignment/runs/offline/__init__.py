"""Runs that train on a dataset, assembled the same way for every offline objective."""
