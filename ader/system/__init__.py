"""What every program needs, whatever it is about: errors, files, console, signals, processes, randomness."""
