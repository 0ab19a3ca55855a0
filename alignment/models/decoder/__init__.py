"""The decoder, its layers and its heads."""
