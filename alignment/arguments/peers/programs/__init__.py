"""The commands of other suites: what each is here, the defaults it relies on, and what has no counterpart."""
