"""Completions and chat in OpenAI's form."""
