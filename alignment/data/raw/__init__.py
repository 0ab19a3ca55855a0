"""Raw rows: the registry of datasets, the checks of a row, and the mixing of datasets."""
