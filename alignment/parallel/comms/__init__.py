"""Communication between processes, on CPU and GPU, with timeouts and traffic counts."""
