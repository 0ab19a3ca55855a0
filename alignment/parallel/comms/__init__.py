"""Messages between processes: groups, watched and counted, on CPU and GPU."""
