"""Engines that generate completions of prompts."""
