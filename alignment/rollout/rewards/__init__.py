"""Where rewards come from: a model, a function or an HTTP service."""
