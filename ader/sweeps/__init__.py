"""Sweeps: many runs, each a process of its own; what fails has its reason, and the rest goes on."""
