"""Text to token ids and back, from the files of a model folder."""
