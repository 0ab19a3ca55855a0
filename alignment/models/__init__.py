"""Decoders, score models, tokenizers and their folders on disk."""
