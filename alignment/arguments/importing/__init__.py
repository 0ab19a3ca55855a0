"""Read command lines of other suites and turn them into arguments of this one."""
