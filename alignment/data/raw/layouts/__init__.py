"""Known layouts of raw rows, recognised by their columns, and their conversion to samples."""
