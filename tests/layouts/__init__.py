"""Small datasets in the layouts of the real ones, exceptions included: ``layouts/<reader>.py`` has ``write(root)``."""
