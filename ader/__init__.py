"""ader: a benchmark runner for visual anomaly detection.

Read ``ader/runs/run.py`` first: it is the whole flow. ``ader.metrics``, ``ader.data`` and ``ader.methods`` can each be
used on their own.
"""

__version__ = "0.4.0"
