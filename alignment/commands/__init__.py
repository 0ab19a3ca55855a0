"""The command line: ``alignment VERB ...``, one module a verb."""
