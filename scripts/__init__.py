"""Checks that take longer than a test may, or that look at what lies outside of the repository."""
