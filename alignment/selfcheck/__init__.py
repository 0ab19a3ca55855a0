"""What this machine is tried with before it is trusted: operators, both engines, an update, in child processes."""
