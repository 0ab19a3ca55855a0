"""Ranks, devices and runners."""
