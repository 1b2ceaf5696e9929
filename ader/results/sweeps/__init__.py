"""A sweep's part of the results tree: its jobs, and why those ended that failed."""
