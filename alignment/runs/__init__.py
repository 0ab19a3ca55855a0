"""From arguments to a run: everything that is assembled before a loop starts and written after it ends."""
