"""Raw rows: the registry of datasets, what a row may be, and how datasets are mixed."""
