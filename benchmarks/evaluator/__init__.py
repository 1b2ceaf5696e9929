"""Speed, memory and errors of the evaluator, beside everything else that computes its metrics.

Start at ``__main__``: it reads the command line and has ``comparing`` run every row of ``competitors`` in a process of
its own; there ``measuring`` times it on the arrays of ``data``. ``reference`` has the exact values, ``tables`` shows
what came out. ``stress`` is a program of its own.
"""
