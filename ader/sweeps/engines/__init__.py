"""Where the jobs of a sweep run: a module each, with a class ``Engine``."""
