"""The built-in raw datasets: every module here is imported before a dataset is looked for, so a new file registers."""
