"""Runs: ``ader.runs.run`` is the whole flow."""
