"""Datasets as lists of samples, and how images become arrays."""

from ader.data.index import Index, Sample
from ader.data.load import load_index

__all__ = ["Index", "Sample", "load_index"]
