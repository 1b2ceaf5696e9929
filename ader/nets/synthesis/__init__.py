"""Synthetic anomalies, and the random numbers they are drawn with."""
