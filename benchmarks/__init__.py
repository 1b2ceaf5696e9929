"""Speed and memory, measured side by side: each module is a program, ``python -m benchmarks.NAME --help``."""
