"""The eager engine, the reference for testing faster engines."""
