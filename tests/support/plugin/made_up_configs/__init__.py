"""Configs of the made-up package."""
