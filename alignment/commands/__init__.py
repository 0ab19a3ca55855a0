"""The command line: ``alignment VERB ...``, one module per verb."""
