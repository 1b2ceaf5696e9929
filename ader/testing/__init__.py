"""Toy data and the checks that every method, dataset and metric must pass."""
